# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Look at a file, whatever it is."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.checking.adapters import adapter_facts, is_adapter
from dreambooth_jax.weights.checking.kinds import other_facts
from dreambooth_jax.weights.checking.report import FileReport
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.single_file import read_single

CHUNK = 2**20
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_file(path: str | Path) -> FileReport:
    """What a file is, what it changes, what is wrong with it, and what other tools make of it.

    Args:
        path: of a ``.safetensors`` file, or of one of PyTorch's own, of which nothing is unpickled.

    Raises:
        InputError: if it is not there, broken, or nothing that is known.
    """
    file = at_home(path)
    if file.is_dir():
        raise InputError(f"{file} is a folder: say which file of it")
    leaves, metadata = read_single(file)
    if is_adapter(leaves):
        facts = adapter_facts(file, leaves, metadata)
    else:
        facts = {"damage": tuple(_not_finite(leaves)), **other_facts(file, leaves)}
    if changed := _changed_since(file, metadata):
        facts["damage"] = (*facts["damage"], changed)
    return FileReport(
        file=file,
        size=file.stat().st_size,
        dtypes=dict(Counter(leaf.dtype.name for leaf in leaves.values())),
        metadata=metadata,
        **facts,
    )


def _not_finite(leaves: Mapping[str, Leaf]) -> list[str]:
    found = []
    for name, leaf in leaves.items():
        if leaf.dtype.name in _FLOATS:
            array = leaf.load()
            if bad := np.count_nonzero(~np.isfinite(array)):
                found.append(f"{name} has {bad} of {array.size} values that are not finite")
    return found


def _changed_since(file: Path, metadata: Mapping[str, str]) -> str | None:
    """What to say where the hash in the metadata is not that of the arrays."""
    said = metadata.get("sshs_model_hash") or metadata.get("modelspec.hash_sha256", "").removeprefix("0x")
    if not said:
        return None
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() == said:
        return None
    return "its arrays are others than when its hash was taken: it was changed, or another tool saved it anew"
