# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters as they are asked for in one word: ``FILE``, ``FILE:WEIGHT`` or ``FILE:TEXT_ENCODER:UNET``."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters.applying import applied
from dreambooth_jax.weights.adapters.paths import layers_of
from dreambooth_jax.weights.adapters.reading import read_adapter

DIGITS = 12
"""Of hashes, as A1111 shows them."""


_SYNTAX = "say FILE or FILE:WEIGHT, such as dog.safetensors:0.8, or FILE:TEXT_ENCODER:UNET"


class Asked(NamedTuple):
    """A file, and how much of it counts."""

    file: str
    text_encoder: float = 1.0
    """Of all networks but the denoiser."""
    unet: float = 1.0

    @classmethod
    def read(cls, text: str) -> "Asked":
        """What a word names; each weight is 1 where it does not say.

        >>> Asked.read("dog.safetensors:0.8"), Asked.read("C:/dog.safetensors").file
        (Asked(file='dog.safetensors', text_encoder=0.8, unet=0.8), 'C:/dog.safetensors')

        Raises:
            InputError: if a weight is no number that could be meant.
        """
        file, weights = text, list[float]()
        while len(weights) < 2 and (number := _number(file.rpartition(":")[2])) is not None and ":" in file:
            file = file.rpartition(":")[0]
            weights.insert(0, number)
        if not file or not all(map(math.isfinite, weights)) or _has_more(file):
            raise InputError(f"lora = {text}: {_SYNTAX}")
        return cls(file, *(weights * 2)[:2]) if weights else cls(file)

    @property
    def name(self) -> str:
        """As A1111 has it between ``<lora:`` and ``>``."""
        stem = Path(self.file).stem.replace(":", "").replace(",", "")
        both = f"{self.text_encoder:g}" if self.text_encoder == self.unet else f"{self.text_encoder:g}:{self.unet:g}"
        return f"{stem}:{both}"

    def weights(self, networks: Sequence[str]) -> Mapping[str, float]:
        """Of each network."""
        return {name: self.unet if name == "unet" else self.text_encoder for name in networks}


def with_adapters(params: Tree, words: Sequence[str]) -> Tree:
    """The model with adapters of files, one after the other.

    Args:
        params: {"text_encoder": ..., "unet": ..., ...}.
        words: ``FILE``, ``FILE:WEIGHT`` or ``FILE:TEXT_ENCODER:UNET`` each.

    Raises:
        InputError: as ``read_adapter`` and ``applied``.
    """
    for one in map(Asked.read, words):
        adapter = read_adapter(one.file, layers=layers_of(params.get("unet", {})))
        params = applied(params, adapter, one.weights([*params, *adapter.networks]))
    return params


def hashes_of(words: Sequence[str]) -> dict[str, str]:
    """Name and weight of each file -> how the hash begins that A1111 knows it by.

    That is of a safetensors file's arrays, so that it stays the same where metadata change, and of all else the whole
    file's.
    """
    return {one.name: _hash(at_home(one.file)) for one in map(Asked.read, words)}


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        if file.suffix == ".safetensors":
            content.seek(8 + int.from_bytes(content.read(8), "little"))
        return hashlib.file_digest(content, "sha256").hexdigest()[:DIGITS]


def _has_more(file: str) -> bool:
    """Whether what should be a file's name has something behind it: a third weight, or what is no number."""
    *names, last = file.split(":")
    if not names or at_home(file).is_file():
        return False
    heads = (":".join(names[:count]) for count in range(1, len(names) + 1))
    return _number(last) is not None or any(at_home(head).is_file() for head in heads)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
