# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which method changes a layer, by the names of its tensors, and how tensors lie in files and here.

In files tensors lie as PyTorch's weights do: a matrix is [out, in], a convolution [out, in, height, width]. Here they
lie as kernels do: [in, out], and [height, width, in, out].
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Module(NamedTuple):
    """What becomes of one layer.

    Attributes:
        method: name of what is done, as in ``METHODS`` where we have it.
        tensors: by name, laid out as kernels are.
    """

    method: str
    tensors: Mapping[str, Any]


class TensorNames(NamedTuple):
    """The tensors of a method.

    Attributes:
        method: its name.
        needed: one of these groups of names must be there whole.
        optional: what may be there besides.
    """

    method: str
    needed: tuple[frozenset[str], ...]
    optional: frozenset[str] = frozenset()


def _names(*groups: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(group.split()) for group in groups)


_LOHA = "hada_w1_a hada_w1_b hada_w2_a hada_w2_b"
_LOKR = (
    *("lokr_w1 lokr_w2", "lokr_w1_a lokr_w1_b lokr_w2", "lokr_w1 lokr_w2_a lokr_w2_b"),
    "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b",
)
_ALPHA = frozenset(("alpha",))
METHODS = (
    TensorNames("lora", _names("lora_down lora_up"), _ALPHA | {"lora_mid"}),
    TensorNames("dora", _names("lora_down lora_up dora_scale"), _ALPHA | {"lora_mid"}),
    TensorNames("loha", _names(_LOHA), _ALPHA | {"hada_t1", "hada_t2"}),
    TensorNames("loha with dora", _names(f"{_LOHA} dora_scale"), _ALPHA | {"hada_t1", "hada_t2"}),
    TensorNames("lokr", _names(*_LOKR), _ALPHA | {"lokr_t2"}),
    TensorNames("lokr with dora", _names(*(f"{names} dora_scale" for names in _LOKR)), _ALPHA | {"lokr_t2"}),
    TensorNames("ia3", _names("weight on_input", "weight"), _ALPHA),
    TensorNames("oft", _names("oft_blocks"), _ALPHA | {"rescale"}),
    TensorNames("oft_diag", _names("oft_diag"), _ALPHA | {"rescale"}),
    TensorNames("glora", _names("a1 a2 b1 b2"), _ALPHA | {"bm"}),
    TensorNames("diff", _names("diff", "diff diff_b", "diff_b"), _ALPHA),
    TensorNames("norm", _names("w_norm", "w_norm b_norm", "b_norm"), _ALPHA),
    TensorNames("svdiff", _names("delta")),
    TensorNames("lidb", _names("lidb_down lidb_up lidb_seed")),
)
"""All that files are known to hold, with what is written of each; not all of them can be applied."""

ALL_TENSORS = frozenset().union(*(names for method in METHODS for names in (*method.needed, method.optional)))


def method_of(tensors: Mapping[str, Any]) -> str | None:
    """The method that has these tensors and no others; None where there is none, as where one is missing."""
    names = frozenset(tensors)
    for method in METHODS:
        if any(needed <= names <= needed | method.optional for needed in method.needed):
            is_butterfly = method.method == "oft" and len(tensors["oft_blocks"].shape) == 4
            return "boft" if is_butterfly else method.method
    return None


_NUMBERS = frozenset(("alpha", "on_input", "lidb_seed"))
_ANY_AXES = frozenset(("weight", "w_norm", "b_norm", "diff", "diff_b", "rescale", "oft_diag", "delta"))
_AXES = {**dict.fromkeys(_NUMBERS, (0,)), **dict.fromkeys(_ANY_AXES, range(1, 5)), "oft_blocks": (3, 4)}


def odd_shape(tensors: Mapping[str, Any]) -> str | None:
    """Name of a tensor that has a shape which no file gives it: factors have two axes, or four of convolutions."""
    for name, tensor in tensors.items():
        if len(tensor.shape) not in _AXES.get(name, (2, 4)) or 0 in tensor.shape:
            return name
    return None


_MEETING = (
    ("lora_down", "lora_up"),
    *((f"hada_w{n}_b", f"hada_w{n}_a") for n in (1, 2)),
    *((f"lokr_w{n}_b", f"lokr_w{n}_a") for n in (1, 2)),
)
"""Factors that are multiplied: the columns of the first meet the rows of the second."""


def unmet_ranks(tensors: Mapping[str, Any]) -> str | None:
    """What is wrong where factors cannot be multiplied, of tensors without odd shapes; None where they can."""
    has_core = any(name in tensors for name in ("hada_t1", "hada_t2", "lokr_t2"))
    for first, second in _MEETING:
        if first not in tensors or second not in tensors or (has_core and not first.startswith("lora")):
            continue
        columns, rows = tensors[first].shape[-1], tensors[second].shape[-2]
        if columns != rows:
            return f"{first} has {columns} columns, {second} {rows} rows: the ranks differ"
    return None


def to_ours(array: np.ndarray) -> np.ndarray:
    """A tensor of a file, as a view that lies as kernels do."""
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


def to_torch(array: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_ours`."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array
