# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A file of an adapter and a model -> the model with it, more or less of it.

    W + m · (method(W, tensors) − W)        each kernel, with weight m

Biases, and scales of norms, that LyCORIS trains besides are added m times. What is applied first is what the next one
finds: of LoRA and others that only add, the order does not matter.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dreambooth_jax.adapters.kernels import KernelMethod
from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import Tree, flatten, unflatten
from dreambooth_jax.weights.adapters.methods import Module
from dreambooth_jax.weights.adapters.reading import AdapterFile

_ADDED = {"diff_b": "bias", "w_norm": "scale", "b_norm": "bias"}
"""Tensors that are added to another leaf of the layer than its kernel."""


def applied(params: Tree, adapter: AdapterFile, weight: float | Mapping[str, float] = 1.0) -> Tree:
    """The model with an adapter. Leaves that it does not change are the same arrays; dtypes stay.

    Args:
        params: {"text_encoder": ..., "unet": ..., ...}.
        adapter: what to apply.
        weight: m, or that of each network; 0 leaves a network out.

    Raises:
        InputError: if it is for another model, or has a method that we cannot apply.
    """
    found = dict(params)
    for network, layers in adapter.networks.items():
        m = weight.get(network, 1.0) if isinstance(weight, Mapping) else weight
        if m == 0:
            continue
        if network not in params:
            raise InputError(f"{adapter.file} changes a {network}, which this model does not have: take one for it")
        leaves = flatten(params[network])
        for path, module in layers.items():
            leaves |= _changed(leaves, path, module, m, where=f"{adapter.file}: {network}/{path}")
        found[network] = unflatten(leaves)
    return found


def _changed(leaves: Mapping[str, Any], path: str, module: Module, m: float, *, where: str) -> dict[str, Any]:
    """The leaves of a layer that become others."""
    changes: dict[str, Callable[[Any], Any]] = {
        f"{path}/{_ADDED[name]}": partial(_sum, m * _wide(tensor))
        for name, tensor in module.tensors.items()
        if name in _ADDED
    }
    tensors = {name: _wide(tensor) for name, tensor in module.tensors.items() if name not in _ADDED}
    if tensors.keys() - {"alpha"}:
        if module.method not in METHODS:
            raise InputError(f"{where} is changed by {module.method}, which we cannot apply: we have {_known()}")
        changes[f"{path}/kernel"] = partial(_weighted, METHODS[module.method], tensors, m)
    return {name: _fitting(leaves, name, change, where=where) for name, change in changes.items()}


def _known() -> str:
    return ", ".join(sorted({*METHODS, "diff", "norm"}))


def _wide(array: Any) -> Any:
    """In float32, unless it is wider or no real number."""
    array = jnp.asarray(array)
    real = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32)) if real else array


def _sum(tensor: Any, leaf: Any) -> Any:
    return leaf + tensor


def _weighted(method: KernelMethod, tensors: Mapping[str, Any], m: float, kernel: Any) -> Any:
    whole = method.kernel(kernel, tensors)
    return whole if m == 1 else kernel + m * (whole - kernel)


def _fitting(leaves: Mapping[str, Any], name: str, change: Callable[[Any], Any], *, where: str) -> Any:
    """The changed leaf, computed in float32 at least; raise InputError if there is none, or of another shape."""
    if name not in leaves:
        near = difflib.get_close_matches(name, leaves, n=1)
        raise InputError(f"{where} is no layer of this model" + (f", which has {near[0]}" if near else ""))
    leaf = jnp.asarray(leaves[name])
    try:
        shape = jax.eval_shape(change, _wide(leaf)).shape
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        shape = None
    if shape != leaf.shape:
        raise InputError(f"{where} does not fit this model, whose {name} is {list(leaf.shape)}: it is for another one")
    return change(_wide(leaf)).astype(leaf.dtype)
