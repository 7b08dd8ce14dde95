# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters as they are asked for in one word: ``FILE`` or ``FILE:WEIGHT``."""

import math
from collections.abc import Sequence

from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters.applying import applied
from dreambooth_jax.weights.adapters.reading import read_adapter


def file_and_weight(text: str) -> tuple[str, float]:
    """What a word names, and how much of it counts: 1 where it does not say.

    >>> file_and_weight("dog.safetensors:0.8"), file_and_weight("C:/dog.safetensors")
    (('dog.safetensors', 0.8), ('C:/dog.safetensors', 1.0))

    Raises:
        InputError: if the weight is no number that could be meant.
    """
    file, _, last = text.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        return text, 1.0
    if not file or not math.isfinite(weight):
        raise InputError(f"lora = {text}: say FILE or FILE:WEIGHT, such as dog.safetensors:0.8")
    return file, weight


def with_adapters(params: Tree, words: Sequence[str]) -> Tree:
    """The model with adapters of files, one after the other.

    Args:
        params: {"text_encoder": ..., "unet": ..., ...}.
        words: ``FILE`` or ``FILE:WEIGHT`` each.

    Raises:
        InputError: as ``read_adapter`` and ``applied``.
    """
    for file, weight in map(file_and_weight, words):
        params = applied(params, read_adapter(file), weight)
    return params
