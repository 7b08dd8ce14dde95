# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Names and layouts of the same parameter in three dialects.

    PyTorch       down_blocks.0.attentions.1.proj_in.weight       convolution OIHW, dense [out, in]
    ours          down_blocks_0/attentions_1/proj_in/kernel       convolution HWIO, dense [in, out]
    legacy Flax   ours, but for what ``KeyRules`` say             as ours

*Path rule*: ``name.N -> name_N``. *Leaf rule*: ``weight`` is ``kernel``, ``scale`` or ``embedding``, whichever our
module has there. *Layout rule*: a leaf called ``weight`` lies as in PyTorch, any other as in Flax. What is left after
the path and leaf rules is a name's ``key``: two names of any dialects mean the same parameter if and only if their keys
are equal, so reading never asks which dialect a file is in.
"""

import re

import numpy as np

from dreambooth_jax.models.components import KeyRules

_NOT_INDEXED = ("linear_1", "linear_2")  # PyTorch's own names; every other trailing number is a list's index
_WEIGHTS = ("kernel", "scale", "embedding")


def key(rules: KeyRules, name: str) -> str:
    """What all dialects' names of one parameter have in common: our path, with the leaf called ``weight`` or ``bias``.

    >>> key(KeyRules(legacy={"to_q": "query"}), "encoder.mid_block.attentions.0.query.weight")
    'encoder/mid_block/attentions_0/to_q/weight'
    """
    path = re.sub(r"[./](\d+)(?=[./])", r"_\1", name)
    *parents, leaf = re.split(r"[./]", path)
    modern = {theirs: ours for ours, theirs in rules.legacy.items()}
    parents = [modern.get(segment, segment) for segment in parents]
    if rules.prefix and parents[:1] != [rules.prefix]:
        parents.insert(0, rules.prefix)
    return "/".join([*parents, "weight" if leaf in _WEIGHTS else leaf])


def torch_name(name: str) -> str:
    """Our name -> the one in a PyTorch state dict.

    >>> torch_name("time_embedding/linear_1/kernel"), torch_name("up_blocks_1/resnets_0/norm1/scale")
    ('time_embedding.linear_1.weight', 'up_blocks.1.resnets.0.norm1.weight')
    """
    *parents, leaf = name.split("/")
    path = [segment if segment in _NOT_INDEXED else re.sub(r"_(\d+)$", r".\1", segment) for segment in parents]
    return ".".join([*path, "weight" if leaf in _WEIGHTS else leaf])


def flax_name(rules: KeyRules, name: str) -> str:
    """Our name -> the one in a legacy Flax file.

    >>> flax_name(KeyRules(legacy={"layers_": "layers/"}), "text_model/encoder/layers_3/mlp/fc1/kernel")
    'text_model/encoder/layers/3/mlp/fc1/kernel'
    """

    def rename(segment: str) -> str:
        stem = segment.rstrip("0123456789")
        return rules.legacy.get(segment) or rules.legacy.get(stem, stem) + segment.removeprefix(stem)

    return "/".join(rename(segment) for segment in name.split("/"))


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """A leaf of ours, by name, as a view in PyTorch's layout."""
    if not name.endswith("kernel"):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def to_ours(name: str, array: np.ndarray, *, source: str, ndim: int) -> np.ndarray:
    """A leaf of a file as a view in our layout.

    Args:
        name: our name of it.
        array: as it lies in the file, where it is called ``source``.
        ndim: our number of axes. A 1×1 convolution and a dense layer are the same thing, and files disagree on which.
    """
    if not name.endswith("kernel"):
        return array
    if source.endswith("weight"):
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    if array.ndim == 2 and ndim == 4:
        return array[None, None]
    if array.shape[:2] == (1, 1) and array.ndim == 4 and ndim == 2:
        return array[0, 0]
    return array
