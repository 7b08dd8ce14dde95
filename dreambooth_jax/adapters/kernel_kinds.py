# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters of kernels by their settings alone: a new method is a file, an entry here and one in ``methods.py``."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.difference import difference
from dreambooth_jax.adapters.ia3 import ia3
from dreambooth_jax.adapters.kernels import Tensors
from dreambooth_jax.adapters.lidb import lidb
from dreambooth_jax.adapters.loha import loha
from dreambooth_jax.adapters.lokr import lokr
from dreambooth_jax.adapters.lora import lora
from dreambooth_jax.adapters.oft import oft
from dreambooth_jax.adapters.rank_relaxed import rank_relaxed
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.svdiff import svdiff
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.config import AdapterConfig
from dreambooth_jax.errors import InputError

Build: TypeAlias = Callable[[AdapterConfig, Layers], Adapter]


def _ranks(settings: AdapterConfig) -> Ranks:
    return Ranks(
        rank=settings.rank,
        alpha=settings.alpha,
        conv_rank=settings.conv_rank,
        conv_alpha=settings.conv_alpha,
        rank_stabilized=settings.rank_stabilized,
    )


def _lora(settings: AdapterConfig, layers: Layers) -> Adapter:
    return lora(layers, ranks=_ranks(settings), dora=settings.dora, dropout=settings.dropout)


def _loha(settings: AdapterConfig, layers: Layers) -> Adapter:
    return loha(layers, ranks=_ranks(settings))


def _lokr(settings: AdapterConfig, layers: Layers) -> Adapter:
    return lokr(layers, ranks=_ranks(settings), factor=settings.factor, decompose_both=settings.decompose_both)


def _ia3(settings: AdapterConfig, layers: Layers) -> Adapter:
    del settings
    return ia3(layers)


def _oft(settings: AdapterConfig, layers: Layers) -> Adapter:
    return oft(layers, block_size=settings.block_size, constraint=settings.constraint)


def _svdiff(settings: AdapterConfig, layers: Layers) -> Adapter:
    del settings
    return svdiff(layers)


def _lidb(settings: AdapterConfig, layers: Layers) -> Adapter:
    return lidb(layers, seed=settings.lidb_seed, down=settings.lidb_down, up=settings.lidb_up)


def _rank_relaxed(settings: AdapterConfig, layers: Layers) -> Adapter:
    del layers  # those of the file
    return rank_relaxed(_lidb_of_file(settings.begin or ""), rank=settings.rank)


def _lidb_of_file(path: str) -> Mapping[str, Tensors]:
    """Path of a layer -> tensors."""
    from dreambooth_jax.weights.adapters.reading import read_adapter  # which knows our methods

    found = read_adapter(path).networks
    modules = {f"{network}/{layer}": module for network, layers in found.items() for layer, module in layers.items()}
    other = next((layer for layer, module in modules.items() if module.method != "lidb"), None)
    if other is not None:
        raise InputError(
            f"adapter.begin = {path}: {other} is changed by {modules[other].method}, not by lidb: "
            "give the file of a run with adapter.kind=lidb"
        )
    return {layer: module.tensors for layer, module in modules.items()}


def _custom_diffusion(settings: AdapterConfig, layers: Layers) -> Adapter:
    del settings
    return difference(layers)


KINDS: dict[str, Build] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "ia3": _ia3,
    "oft": _oft,
    "svdiff": _svdiff,
    "lidb": _lidb,
    "rank_relaxed": _rank_relaxed,
    "custom_diffusion": _custom_diffusion,
}
"""Kinds of training, by name."""
