# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters of kernels by their settings alone: a new method is a file, an entry here and one in ``methods.py``."""

from collections.abc import Callable
from typing import TypeAlias

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.difference import difference
from dreambooth_jax.adapters.ia3 import ia3
from dreambooth_jax.adapters.lidb import lidb
from dreambooth_jax.adapters.loha import loha
from dreambooth_jax.adapters.lokr import lokr
from dreambooth_jax.adapters.lora import lora
from dreambooth_jax.adapters.oft import oft
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.svdiff import svdiff
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.config import AdapterConfig

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
    "custom_diffusion": _custom_diffusion,
}
"""Kinds of training, by name."""
