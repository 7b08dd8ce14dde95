# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Models that whoever serves the page offers besides files of settings, and the methods that train them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.load import source_of
from dreambooth_jax.weights.sources import open_source

METHODS = {
    "quick LoRA": "sd15_lora",
    "full": "sd15",
    "textual inversion": "sd15_textual_inversion",
}
"""Method -> settings that ship, of which all but the model is taken."""


@dataclass(frozen=True)
class Offer:
    """A model that can be trained.

    Attributes:
        path: folder, single file or hub id.
        resolution: that it was made for; None if it does not say so.
    """

    path: str
    resolution: int | None

    @property
    def words(self) -> list[str]:
        """``KEY=VALUE`` that put it in the place of a file's own."""
        return [f"model.path={self.path}", *([f"data.resolution={self.resolution}"] if self.resolution else [])]


def offers_of(models: Sequence[str]) -> dict[str, Offer]:
    """Name -> model.

    Args:
        models: ``NAME=MODEL`` or ``MODEL``, whose name is then the last part of its own.

    Raises:
        InputError: if one cannot be had, or two have one name.
    """
    found: dict[str, Offer] = {}
    for name, path in named("models", models).items():
        try:
            configs = open_source(source_of(path), weights=False).configs
        except InputError as error:
            raise InputError(f"models: {name}: {error}") from None
        found[name] = Offer(path=path, resolution=_native(configs))
    return found


def named(setting: str, texts: Sequence[str]) -> Mapping[str, str]:
    """Name -> place of what is offered.

    Args:
        setting: that errors name.
        texts: ``NAME=PLACE`` or ``PLACE``, whose name is then the last part of its own.

    Raises:
        InputError: if one has no name or no place, or two have one name.
    """
    found: dict[str, str] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        place = after if equals else before
        name = before if equals else Path(place).stem
        if name in found or not (name.strip() and place.strip()):
            kind = setting.removesuffix("s").upper()
            raise InputError(f"{setting}: {text!r}: write NAME={kind}, with a name of its own for each")
        found[name] = place
    return found


def _native(configs: Any) -> int | None:
    """Pixels that a model was made for: of its latents, times how much its autoencoder reduces a side."""
    side, blocks = configs["unet"].get("sample_size"), configs["vae"].get("block_out_channels", ())
    return side * 2 ** (len(blocks) - 1) if isinstance(side, int) and blocks else None
