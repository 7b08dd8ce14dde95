# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which model it is, by its files: nothing is built, and no weights are read into memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dreambooth_jax.models.components import UNET, VAE, ComponentKind
from dreambooth_jax.weights.fingerprint import Identity, told_of
from dreambooth_jax.weights.single_module import ModuleSource, open_module
from dreambooth_jax.weights.sources import open_source


@dataclass(frozen=True, kw_only=True)
class Part:
    """A network of a model that may be another one's.

    Attributes:
        name: of the component.
        kind: of network.
        open_settings: those of its configuration that files of the original code leave open, by what fingerprints call
            them; they are as in the model. None where such files say nothing at all.
    """

    name: str
    kind: ComponentKind
    open_settings: Mapping[str, str] | None = field(default_factory=dict)

    def open(self, source: str | Path, *, weights: bool = True) -> ModuleSource:
        """As :func:`~dreambooth_jax.weights.single_module.open_module`."""
        return open_module(source, self.kind, component=self.name, weights=weights, bare=self.open_settings is None)


PARTS: Mapping[str, Part] = {
    "vae": Part(name="vae", kind=VAE, open_settings={"scale": "scaling_factor"}),
    "unet": Part(name="unet", kind=UNET, open_settings=None),
}
"""In the order in which they are exchanged."""


def settings_of(part: Part, found: ModuleSource, *, own: Mapping[str, Any], read: Any) -> dict[str, Any]:
    """The configuration of another network.

    Args:
        part: which one.
        found: the network.
        own: what the model says of that which it has.
        read: the same, read.
    """
    if not found.is_original:
        return dict(found.config)
    if part.open_settings is None:
        return dict(own)
    return {**found.config, **{name: getattr(read, name) for name in part.open_settings.values()}}


def identify(
    source: str | Path,
    *,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Identity:
    """What ``load_components`` would call a model.

    Args:
        source: folder in the diffusers layout, a hub id, or a single file.
        vae: another autoencoder than the model's.
        unet: another denoiser than the model's.
        revision, variant, tokenizer, prediction_type: of the model, as there.

    Raises:
        InputError: if there is no such model, or what it says of itself is missing or broken.
    """
    found = open_source(
        source, revision=revision, variant=variant, tokenizer=tokenizer, prediction_type=prediction_type
    )
    identity = Identity(folder=found.path, fingerprint=found.fingerprint(), as_found=found.as_found)
    others = {"vae": vae, "unet": unet}
    for name, part in PARTS.items():
        if (place := others[name]) is None:
            continue
        other = part.open(place)
        own = part.kind.config_cls.from_json(found.configs[name], file=str(found.path))
        config = settings_of(part, other, own=found.configs[name], read=own)
        read = part.kind.config_cls.from_json(config, file=str(other.file))
        told = fingerprint_with(identity.fingerprint, part, other, read)
        identity = replace(identity, fingerprint=told, as_found=False)
    return identity


def fingerprint_with(known: str, part: Part, found: ModuleSource, config: Any) -> str:
    """A model's with another network.

    Args:
        known: of the model itself.
        part: which network it is.
        found: the network.
        config: what it is built by.
    """
    settings = {told: getattr(config, name) for told, name in (part.open_settings or {}).items()}
    return told_of(known, {part.name: found.fingerprint(), **settings})
