# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The model that an adapter makes of arrays, outside a training step: to draw with, to encode prompts, to export.

What ``compose`` computes is computed by one program. What it passes on is the same array: a copy of the frozen networks
would double the model.
"""

from functools import partial

import jax

from dreambooth_jax.adapters.base import Adapter, ComposeFn
from dreambooth_jax.trees import Tree, shapes


def composed(adapter: Adapter, frozen: Tree, trainable: Tree) -> Tree:
    """``adapter.compose(frozen, trainable)``, compiled; all arrays lie on the same devices."""
    leaves = jax.tree.leaves((frozen, trainable))
    sources, structure = _sources(adapter.compose, frozen, trainable)
    which = tuple(i for i, source in enumerate(sources) if source is None)
    computed = dict(zip(which, _compute(adapter.compose, which, frozen, trainable))) if which else {}
    return jax.tree.unflatten(
        structure, [computed[i] if source is None else leaves[source] for i, source in enumerate(sources)]
    )


def passed_on(adapter: Adapter, frozen: Tree, trainable: Tree) -> list[jax.ShapeDtypeStruct]:
    """Shapes of the leaves, of both trees, that a composed model shares with them. The trees may be shapes."""
    leaves = jax.tree.leaves((frozen, trainable))
    sources, _ = _sources(adapter.compose, frozen, trainable)
    return [shapes(leaves[source]) for source in sources if source is not None]


def _sources(compose: ComposeFn, frozen: Tree, trainable: Tree) -> tuple[list[int | None], jax.tree_util.PyTreeDef]:
    """(for each leaf that is composed: the number of the leaf that it is, or None if it is computed; their tree)."""
    closed, shape = jax.make_jaxpr(compose, return_shape=True)(frozen, trainable)
    numbers = {id(variable): i for i, variable in enumerate(closed.jaxpr.invars)}
    return [numbers.get(id(variable)) for variable in closed.jaxpr.outvars], jax.tree.structure(shape)


@partial(jax.jit, static_argnums=(0, 1))
def _compute(compose: ComposeFn, which: tuple[int, ...], frozen: Tree, trainable: Tree) -> list[jax.Array]:
    leaves = jax.tree.leaves(compose(frozen, trainable))
    return [leaves[i] for i in which]
