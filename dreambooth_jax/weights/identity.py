# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which model it is, by its files: nothing is built, and no weights are read into memory."""

from pathlib import Path

from dreambooth_jax.models.components import VAE
from dreambooth_jax.models.configs import VAEConfig
from dreambooth_jax.weights.fingerprint import Identity, told_of
from dreambooth_jax.weights.single_module import ModuleSource, open_module
from dreambooth_jax.weights.sources import open_source


def identify(
    source: str | Path,
    *,
    vae: str | Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Identity:
    """What ``load_components`` would call a model.

    Args:
        source: folder in the diffusers layout, a hub id, or a single file.
        vae: another autoencoder than the model's.
        revision, variant, tokenizer, prediction_type: of the model, as there.

    Raises:
        InputError: if there is no such model, or what it says of itself is missing or broken.
    """
    found = open_source(
        source, revision=revision, variant=variant, tokenizer=tokenizer, prediction_type=prediction_type
    )
    own = Identity(folder=found.path, fingerprint=found.fingerprint(), as_found=found.as_found)
    if vae is None:
        return own
    other = open_module(vae, VAE, component="vae")
    settings, file = (found.configs["vae"], found.path) if other.is_original else (other.config, other.file)
    scale = VAEConfig.from_json(settings, file=str(file)).scaling_factor
    return Identity(
        folder=own.folder, fingerprint=fingerprint_with(own.fingerprint, other, scale=scale), as_found=False
    )


def fingerprint_with(known: str, vae: ModuleSource, *, scale: float) -> str:
    """A model's with another autoencoder.

    Args:
        known: of the model itself.
        vae: the autoencoder.
        scale: that its latents are multiplied by.
    """
    return told_of(known, {"vae": vae.fingerprint(), "scale": scale})
