# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run trained -> what a file of an adapter holds."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dreambooth_jax.adapters.join import fixed_of_all
from dreambooth_jax.adapters.kernels import tensors_by_path
from dreambooth_jax.adapters.rank_relaxed import merged
from dreambooth_jax.adapters.textual_inversion import TOKENS
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters.methods import ALL_TENSORS, Module, method_of

Tensors = Mapping[str, Any]

_IN_FILES: tuple[tuple[frozenset[str], str, Callable[[Any], Tensors]], ...] = (
    (frozenset(("lidb_down", "lora_down")), "lora", merged),
)
"""Methods that files hold as another: (tensors that tell it, the other one, its tensors)."""


def is_of_kernels(frozen: Tree, trainable: Tree) -> bool:
    """Whether what is trained are tensors of their own that change kernels, as a file of an adapter holds, rather than
    a network's own leaves, which only a whole model does. Words may be trained besides. The trees may be shapes."""
    return all(_method(tensors) is not None for _, _, tensors in _layers(frozen, trainable))


def modules_of(frozen: Tree, trainable: Tree) -> dict[str, dict[str, Module]]:
    """What becomes of which layers: network -> path -> module. Words are left out, which have files of their own.

    Args:
        frozen: network -> parameters, with what its method keeps fixed.
        trainable: group -> what is trained of it, for which :func:`is_of_kernels`.
    """
    networks: dict[str, dict[str, Module]] = {}
    for network, path, tensors in _layers(frozen, trainable):
        for told, method, in_file in _IN_FILES:
            if told <= tensors.keys():
                module = Module(method, in_file(tensors))
                break
        else:
            module = Module(_method(tensors) or "", _kept(tensors))
        networks.setdefault(network, {})[path] = module
    return networks


def _layers(frozen: Tree, trainable: Tree) -> Iterator[tuple[str, str, Tensors]]:
    for network, tree in trainable.items():
        if network != TOKENS:
            for path, tensors in tensors_by_path(fixed_of_all(frozen.get(network, {})), tree).items():
                yield network, path, tensors


def _kept(tensors: Tensors) -> dict[str, Any]:
    """Without those that follow from the others, or from the kernel."""
    return {name: tensor for name, tensor in tensors.items() if name in ALL_TENSORS}


def _method(tensors: Tensors) -> str | None:
    found = [method for told, method, _ in _IN_FILES if told <= tensors.keys()]
    return found[0] if found else method_of(_kept(tensors))
