# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Single safetensors files: all of one or nothing, and arrays in the order that the format's own library gives them."""

import os
from collections.abc import Mapping
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.files import DTYPES, Leaf, write_safetensors

# Of the library's dtypes, from the last to the first.
_ORDER = ("float64", "int64", "float32", "int32", "bfloat16", "float16", "int16", "int8", "uint8", "bool")
_RANKS = {DTYPES[name]: rank for rank, name in enumerate(_ORDER)}


def write_whole(target: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str], *, hash_name: str = "") -> None:
    """``write_safetensors``, to a file that takes the place of another when it is complete.

    Raises:
        InputError: if it cannot be saved. What was there stays.
    """
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_safetensors(unfinished, leaves, metadata, hash_name=hash_name)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{target} could not be saved, what was there before still is: {error}") from error


def in_order(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """Leaves as the safetensors library writes them: wide numbers first, then by name. Hashes depend on it."""
    return dict(sorted(leaves.items(), key=lambda item: (_RANKS[item[1].dtype], item[0])))
