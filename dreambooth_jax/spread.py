# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A program over the rows of a batch, spread over a row of devices: each has all parameters and its share of rows."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax.trees import Tree


def spread(mesh: Mesh, program: Callable, static: tuple[Hashable, ...], params: Tree, rows: Any, *shared: Any) -> Any:
    """``program(*static, params, rows, *shared)`` with the rows of a batch split over the mesh (``Target.mesh``)."""
    count = len(jax.tree.leaves(rows)[0])
    missing = share(mesh, count) * mesh.size - count
    rows = jax.device_put(_padded(rows, missing) if missing else rows, NamedSharding(mesh, PartitionSpec("rows")))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    results = _compiled(program, static, mesh, params, rows, *shared)
    return _shortened(results, missing) if missing else results


# Compiled, because otherwise each little operation on each array would be a program of its own.
@partial(jax.jit, static_argnums=1)
def _padded(rows: Any, missing: int) -> Any:
    """The last row fills up what is missing."""
    return jax.tree.map(lambda x: jnp.concatenate([x, *[x[-1:]] * missing]), rows)


@partial(jax.jit, static_argnums=1)
def _shortened(rows: Any, missing: int) -> Any:
    return jax.tree.map(lambda x: x[:-missing], rows)


def lower(
    mesh: Mesh, program: Callable, static: tuple[Hashable, ...], params: Tree, rows: Any, *shared: Any
) -> jax.stages.Lowered:
    """What :func:`spread` will compile, from shapes of parameters and rows. The rows must be for all devices alike."""

    def placed(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), tree)

    params, rows = placed(params, PartitionSpec()), placed(rows, PartitionSpec("rows"))
    return _compiled.lower(program, static, mesh, params, rows, *shared)


def share(mesh: Mesh, count: int) -> int:
    """Rows of each device."""
    return -(-count // mesh.size)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(
    program: Callable, static: tuple[Hashable, ...], mesh: Mesh, params: Tree, rows: Any, *shared: Any
) -> Any:
    everywhere, split = PartitionSpec(), PartitionSpec("rows")
    mapped = jax.shard_map(
        partial(program, *static),
        mesh=mesh,
        in_specs=(everywhere, split, *(everywhere for _ in shared)),
        out_specs=split,
        check_vma=False,
    )
    return mapped(params, rows, *shared)
