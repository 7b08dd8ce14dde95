# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Blocks of one kind in a row, as a loop whose inside is compiled once (``jax.lax.scan``):

    h ← block(w_i, h),   i = 1 … n

Stable Diffusion XL has ten transformer blocks in a row, six times. Each has parameters of its own, by its own name, as
in files and for everything else; here they are laid on top of each other where the loop begins. That is a copy: of one
row of blocks at a time where the backward pass computes blocks again, which then copies once more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

_BEFORE = "before a block"


def alike(trees: Sequence[Any]) -> bool:
    """Do trees of arrays differ in nothing but their numbers? Only these can be laid on top of each other."""

    def kind(tree: Any) -> tuple[object, ...]:
        leaves, structure = jax.tree.flatten(tree)
        return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)

    return len({kind(tree) for tree in trees}) == 1


def in_a_loop(
    block: Callable[[Any, Array], Array], trees: Sequence[Any], h: Float[Array, "*shape"], *, again: bool
) -> Float[Array, "*shape"]:
    """What blocks make of ``h``, each of what the one before it has made.

    Args:
        block: of a block's own tree and of what it is given, in whose shape and dtype its result is.
        trees: of each block, :func:`alike`.
        again: whether the backward pass computes the inside of each again, and keeps what each is given alone.
    """
    inside = jax.checkpoint(block, prevent_cse=False) if again else block

    def step(h: Array, tree: Any) -> tuple[Array, None]:
        return inside(tree, checkpoint_name(h, _BEFORE)), None

    def loop(trees: Sequence[Any], h: Array) -> Array:
        return jax.lax.scan(step, h, jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))[0]

    if again:
        loop = jax.checkpoint(loop, policy=jax.checkpoint_policies.save_only_these_names(_BEFORE))
    return loop(trees, h)
