# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Layers that no tool can use, or that all of them draw wrongly, and what is said of them as damage."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dreambooth_jax.weights.adapters.methods import unmet_ranks
from dreambooth_jax.weights.checking.bases import BASES
from dreambooth_jax.weights.checking.layers import UNKNOWN, Layer
from dreambooth_jax.weights.checking.made_for import layers_of_base
from dreambooth_jax.weights.checking.widths import Widths

INCOMPLETE = "tensors are missing, or have odd shapes"
RANKS = "the ranks of factors differ"
WIDTHS = "it has other widths there than the model"
_SHOWN = 3
_PAIRS = (("lora_down", "lora_up"), ("diff", "diff"))
"""(tensor that says what a layer takes, tensor that says what it gives)."""


def judged(layer: Layer, base: str | None) -> Layer:
    """The layer with why no tool can use it, and why what they draw is spoilt.

    Args:
        layer: as the file has it.
        base: the model that the file is for, as ``base_of`` tells.
    """
    return layer._replace(unusable=_unusable(layer, base), spoilt=_spoilt(layer.module.tensors))


def _unusable(layer: Layer, base: str | None) -> str | None:
    if layer.module.method == UNKNOWN:
        return INCOMPLETE
    if unmet_ranks(layer.module.tensors):
        return RANKS
    if not _has(base, layer):
        return f"no {base or 'Stable Diffusion'} has such a layer"
    if _misfit(base, layer):
        return WIDTHS
    return None


def _spoilt(tensors: Mapping[str, Any]) -> str | None:
    factors = [np.asarray(tensor) for name, tensor in tensors.items() if np.size(tensor) > 1]
    if any(not jnp.issubdtype(array.dtype, jnp.floating) for array in factors):
        return "takes whole numbers, as a quantised file has, for those that are meant"
    if any(not np.isfinite(array.astype(np.float32)).all() for array in map(np.asarray, tensors.values())):
        return "draws black pictures: not all numbers are finite"
    return None


def _has(base: str | None, layer: Layer) -> bool:
    """Whether the model has the layer; any of ours, where the file does not tell which it is for."""
    if base is not None and base not in BASES:
        return True  # of such a model nothing is known
    return any(layer.path in layers_of_base(name).get(layer.network, {}) for name in ([base] if base else BASES))


def _misfit(base: str | None, layer: Layer) -> tuple[Widths, Widths] | None:
    """(the layer's widths, those that it has in the model) where they differ."""
    own = layers_of_base(base).get(layer.network, {}).get(layer.path) if base in BASES else None
    for first, second in _PAIRS:
        tensors = layer.module.tensors
        if own and first in tensors and second in tensors and min(tensors[n].ndim for n in (first, second)) >= 2:
            found = Widths(int(tensors[first].shape[-2]), int(tensors[second].shape[-1]))
            return None if found == own else (found, own)
    return None


def damage_of_places(layers: list[Layer], base: str | None) -> Iterator[str]:
    """What is wrong with where the layers are: those that the model does not have, and those that it has otherwise."""
    strange = [layer for layer in layers if not _has(base, layer)]
    if strange:
        yield f"no {base or 'Stable Diffusion'} has {_named(strange)}"
    for layer in layers:
        if misfit := _misfit(base, layer):
            found, own = misfit
            first = f"{_named([layer])} takes {found.inputs} channels and gives {found.outputs}"
            yield f"{first}, that of {base} {own.inputs} and {own.outputs}"


def _named(layers: list[Layer]) -> str:
    names = ", ".join(f"{layer.network}/{layer.path}" for layer in layers[:_SHOWN])
    more = len(layers) - _SHOWN
    return f"{names} and {more} more layers of the file" if more > 0 else names
