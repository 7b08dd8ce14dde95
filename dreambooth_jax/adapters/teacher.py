# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The network as it was before training, kept beside the one that is trained: what it says teaches the other.

    params    = {..., "unet": trained, "teacher": the same network untouched}
    frozen    = {..., "teacher": what of it is not in frozen already}

An adapter that leaves the network in ``frozen`` needs nothing more, for the untouched network is there; full training
keeps a copy of what it trains.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from dreambooth_jax.adapters.base import Adapter, Apart, part_for
from dreambooth_jax.models.beside import Deltas
from dreambooth_jax.trees import Tree, map_named

TEACHER = "teacher"
"""Its name among the networks."""


def with_teacher(adapter: Adapter, *, network: str = "unet", dtype: DTypeLike | None = None) -> Adapter:
    """An adapter that composes the untouched network, too, as ``teacher``.

    Args:
        adapter: says what is trained.
        network: that is kept as it was.
        dtype: what kernels are kept in, where it is narrower than theirs: that which they are used in.
    """

    def init(key: Key[Array, ""], params: Tree) -> tuple[Tree, Tree]:
        frozen, trainable = adapter.init(key, params)
        start = {} if adapter.base else part_for(adapter, (network,), {}, trainable)[1]
        return frozen | {TEACHER: copied(start, dtype)}, trainable

    def untouched(frozen: Tree, start: Tree) -> Tree:
        own = {name: tree for name, tree in frozen.items() if name == network}
        whole = adapter.base(own) if adapter.base else adapter.compose(own, start)
        return whole[network]

    def split(frozen: Tree) -> tuple[Tree, Tree]:
        """(the adapter's own part, the teacher where it is wanted)."""
        own = {name: tree for name, tree in frozen.items() if name != TEACHER}
        return own, {TEACHER: untouched(own, frozen[TEACHER])} if TEACHER in frozen else {}

    def compose(frozen: Tree, trainable: Tree) -> Tree:
        own, teacher = split(frozen)
        return adapter.compose(own, trainable) | teacher

    def taught(apart: Apart | None) -> Apart | None:
        def with_teacher(frozen: Tree, trainable: Tree) -> tuple[Tree, Deltas]:
            assert apart is not None
            own, teacher = split(frozen)
            params, deltas = apart(own, trainable)
            return params | teacher, deltas

        return with_teacher if apart else None

    beside, members = taught(adapter.beside), taught(adapter.members)
    return adapter._replace(init=init, compose=compose, beside=beside, members=members, base=None)


def copied(tree: Tree, dtype: DTypeLike | None) -> Tree:
    """Arrays of their own, laid out as they are, for a training step takes the others over. One program."""
    shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), tree)
    return jax.jit(partial(map_named, partial(_kept, dtype)), out_shardings=shardings)(tree)


def _kept(dtype: DTypeLike | None, name: str, leaf: Array) -> Array:
    is_kernel = name.endswith("/kernel") and dtype is not None
    narrower = is_kernel and jnp.dtype(dtype).itemsize < leaf.dtype.itemsize
    return leaf.astype(dtype) if narrower else jnp.copy(leaf)
