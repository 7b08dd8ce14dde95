# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters that change kernels, each by a few tensors of its own: LoRA and its relatives.

    kernel' = method.kernel(kernel, tensors)                          dense or convolution, in Flax's layout
    frozen    = {"unet": {..., "adapter": {path: {"alpha": ...}}}}    what the method keeps fixed, beside the network
    trainable = {"unet": {path: {"lora_down": ..., "lora_up": ...}}}  a group for each network

A method knows one kernel. Which kernels it changes, and with how many tensors, is said by ``start``; what a kernel
becomes depends on its tensors alone, so that tensors of a file are applied by the same function as those of a run.

Tensors have the names that files give them (``lora_down``, ``hada_w1_a``, ``lokr_w1``, ``alpha``) and are laid out as
kernels are: a matrix is the transpose of PyTorch's, four dimensions are [height, width, in, out], and a vector or a
scalar is as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.models.beside import Beside, Deltas
from dreambooth_jax.models.parts import whole
from dreambooth_jax.trees import Tree, flatten, unflatten

FIXED = "adapter"
"""Where a network's part of ``frozen`` holds what a method keeps fixed."""

Tensors = Mapping[str, Any]


class KernelMethod(NamedTuple):
    """What a way to change kernels is.

    Attributes:
        name: as in ``adapter.kind``.
        kernel: (kernel, its tensors, fixed and trained) -> the changed kernel.
        beside: (kernel, its tensors) -> the same change without a dense kernel; None where it has none. The kernel may
            be in parts: it has its shape, and is made whole where its numbers are needed.
    """

    name: str
    kernel: Callable[[Any, Tensors], Any]
    beside: Callable[[Any, Tensors], Beside] | None = None


Start = Callable[[Key[Array, ""], str, Any], tuple[Tensors, Tensors] | None]
"""(key, kernel's name ``unet/conv_in/kernel``, kernel) -> (fixed, trained) tensors that change nothing yet, or None."""


def all_layers(names: Sequence[str]) -> list[str]:
    """Every kernel."""
    return [name for name in names if name.endswith("/kernel")]


def kernel_adapter(method: KernelMethod, start: Start, layers: Layers = all_layers, *, dropout: float = 0.0) -> Adapter:
    """The adapter that changes each kernel of some layers for which ``start`` gives tensors.

    Args:
        method: what becomes of a kernel.
        start: the tensors of a kernel at first. The key is the kernel's own.
        layers: which kernels ``start`` is asked for.
        dropout: share of the inputs of ``down`` that count nothing in training, where it stands beside its layer.

    Raises:
        ValueError: from ``init``, if there is no such kernel.
    """

    def init(key: Key[Array, ""], params: Tree) -> tuple[Tree, Tree]:
        fixed: dict[str, Any] = {}
        trained: dict[str, Any] = {}
        leaves = flatten(params)
        for name in layers(list(leaves)):
            tensors = start(rng.stream(key, name), name, leaves[name])
            if tensors is None:
                continue
            path = name.removesuffix("/kernel")
            network, _, inner = path.partition("/")
            fixed |= {f"{network}/{FIXED}/{inner}/{tensor}": value for tensor, value in tensors[0].items()}
            trained |= {f"{path}/{tensor}": value for tensor, value in tensors[1].items()}
        if not trained:
            raise ValueError("no kernel is to be changed")
        return unflatten(leaves | fixed), unflatten(trained)

    def compose(frozen: Tree, trainable: Tree) -> Tree:
        return {
            network: changed_kernels(method, *without_fixed(tree), trainable.get(network, {}))
            for network, tree in frozen.items()
        }

    def beside(frozen: Tree, trainable: Tree) -> tuple[Tree, Deltas]:
        split = {network: without_fixed(tree) for network, tree in frozen.items()}
        deltas = {
            network: changes_beside(method, params, fixed, trainable.get(network, {}), dropout=dropout)
            for network, (params, fixed) in split.items()
        }
        return {network: params for network, (params, _) in split.items()}, deltas

    def base(frozen: Tree) -> Tree:
        return {network: without_fixed(tree)[0] for network, tree in frozen.items()}

    apart = beside if method.beside else None
    return Adapter(init, compose, lambda group: (group,), beside=apart, members=apart, base=base)


def without_fixed(frozen: Tree) -> tuple[Tree, Tree]:
    """(a network's parameters, what is kept fixed beside them)."""
    return {name: tree for name, tree in frozen.items() if name != FIXED}, frozen.get(FIXED, {})


def tensors_by_path(*trees: Tree) -> dict[str, dict[str, Any]]:
    """Path of a layer -> its tensors, of all these trees."""
    found: dict[str, dict[str, Any]] = {}
    for tree in trees:
        for name, leaf in flatten(tree).items():
            path, _, tensor = name.rpartition("/")
            found.setdefault(path, {})[tensor] = whole(leaf)
    return found


def changed_kernels(method: KernelMethod, params: Tree, fixed: Tree, trained: Tree) -> Tree:
    """A network with all changes in its kernels; dtypes stay.

    Args:
        method: what becomes of a kernel.
        params: of the network.
        fixed, trained: tensors at the paths of their layers.
    """
    leaves = flatten(params)
    for path, tensors in tensors_by_path(fixed, trained).items():
        kernel = whole(leaves[f"{path}/kernel"])
        leaves[f"{path}/kernel"] = method.kernel(kernel, tensors).astype(kernel.dtype)
    return unflatten(leaves)


def changes_beside(
    method: KernelMethod, params: Tree, fixed: Tree, trained: Tree, *, dropout: float = 0.0
) -> dict[str, Beside]:
    """Path of a layer -> what stands next to it in the place of a changed kernel.

    Args:
        method: which has ``beside``.
        params, fixed, trained: as in :func:`changed_kernels`.
        dropout: of the inputs of ``down``.
    """
    assert method.beside is not None
    leaves = flatten(params)
    found = {}
    for path, tensors in tensors_by_path(fixed, trained).items():
        one = method.beside(leaves[f"{path}/kernel"], tensors)
        found[path] = one._replace(dropout=jnp.float32(dropout)) if dropout and one.down is not None else one
    return found


def is_convolution(kernel: Any) -> bool:
    """[height, width, in, out] rather than [in, out]."""
    return len(kernel.shape) == 4
