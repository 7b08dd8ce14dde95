# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Programs over the rows of a batch, and parameters, on the devices of one process: a mesh with the axis ``rows``.

``map_rows`` gives each device all parameters and its share of the rows; of parameters that lie split along ``rows`` its
part, and layers gather what they need (``models/parts.py``). ``replicate`` brings parameters there that are sharded for
training: 4 bytes a parameter on each device while it draws, 4.3 GB for Stable Diffusion 1.5.
"""

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax import distributed
from dreambooth_jax.models.parts import WHOLE, as_parts
from dreambooth_jax.trees import Tree, shapes

ROWS = "rows"
"""The mesh's one axis."""
AT_ONCE = 2**30
"""Bytes of leaves that one program gathers from other processes: few programs, and little beside what they become."""


def map_rows(mesh: Mesh, program: Callable, static: tuple[Hashable, ...], params: Tree, rows: Any, *shared: Any) -> Any:
    """``program(*static, params, rows, *shared)`` with the rows of a batch split over the mesh (``Target.mesh``)."""
    count = len(jax.tree.leaves(rows)[0])
    missing = rows_per_device(mesh, count) * mesh.size - count
    rows = jax.device_put(_padded(rows, missing) if missing else rows, NamedSharding(mesh, PartitionSpec(ROWS)))
    params = placed(params, mesh)
    results = _mapped(program, static, mesh, split_axes(params, mesh), params, rows, *shared)
    return _shortened(results, missing) if missing else results


def placed(params: Tree, mesh: Mesh) -> Tree:
    """Whole on each device, but for what lies split along the mesh's rows, which stays there."""
    whole = NamedSharding(mesh, PartitionSpec())
    stays = jax.tree.map(lambda leaf: leaf.sharding if split_axis(leaf, mesh) != WHOLE else whole, params)
    return jax.device_put(params, stays)


def split_axis(leaf: Any, mesh: Mesh) -> int:
    """The axis along which an array, or a shape with a sharding, lies split along the mesh's rows."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh != mesh or ROWS not in sharding.spec:
        return WHOLE
    return sharding.spec.index(ROWS)


def split_axes(params: Tree, mesh: Mesh) -> tuple[int, ...] | None:
    """Those of all leaves; None if nothing is split."""
    axes = tuple(split_axis(leaf, mesh) for leaf in jax.tree.leaves(params))
    return None if set(axes) <= {WHOLE} else axes


# Compiled, because otherwise each little operation on each array would be a program of its own.
@partial(jax.jit, static_argnums=1)
def _padded(rows: Any, missing: int) -> Any:
    """The last row fills up what is missing."""
    return jax.tree.map(lambda x: jnp.concatenate([x, *[x[-1:]] * missing]), rows)


@partial(jax.jit, static_argnums=1)
def _shortened(rows: Any, missing: int) -> Any:
    return jax.tree.map(lambda x: x[:-missing], rows)


def lower_rows(
    mesh: Mesh, program: Callable, static: tuple[Hashable, ...], params: Tree, rows: Any, *shared: Any
) -> jax.stages.Lowered:
    """What :func:`map_rows` will compile, from shapes of parameters and rows, as many for each device."""

    def shape(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(ROWS))
    axes = split_axes(params, mesh)
    params = jax.tree.map(lambda s: shape(s, s.sharding if split_axis(s, mesh) != WHOLE else whole), params)
    rows = jax.tree.map(lambda s: shape(s, split), rows)
    return _mapped.lower(program, static, mesh, axes, params, rows, *shared)


def rows_per_device(mesh: Mesh, count: int) -> int:
    """Rows of each device."""
    return -(-count // mesh.size)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _mapped(
    program: Callable,
    static: tuple[Hashable, ...],
    mesh: Mesh,
    axes: tuple[int, ...] | None,
    params: Tree,
    rows: Any,
    *shared: Any,
) -> Any:
    whole, split = PartitionSpec(), PartitionSpec(ROWS)
    axis_of = None if axes is None else jax.tree.unflatten(jax.tree.structure(params), axes)

    def local(params: Tree, *rest: Any) -> Any:
        if axis_of is not None:
            params = as_parts(params, axes=axis_of, devices=ROWS, count=mesh.size, dtype=None)
        return program(*static, params, *rest)

    mapped = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole if axis_of is None else jax.tree.map(_spec, axis_of), split, *(whole for _ in shared)),
        out_specs=split,
        check_vma=False,
    )
    return mapped(params, rows, *shared)


def _spec(axis: int) -> PartitionSpec:
    return PartitionSpec() if axis == WHOLE else PartitionSpec(*[None] * axis, ROWS)


@partial(jax.jit, static_argnames="sharding")
def _gathered(leaves: list[jax.Array], sharding: NamedSharding) -> list[jax.Array]:
    return jax.lax.with_sharding_constraint(leaves, sharding)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Logical arrays, whole on each of this process's devices (``Target.mesh``): what a pipeline draws with.

    What lies split over processes is gathered, so all of them have to call this, even if one alone needs the result.
    What lies whole on the devices already is not copied.
    """
    here = NamedSharding(mesh, PartitionSpec())
    return bring_here(tree, mesh, lambda leaf: jax.device_put(leaf, here))


def for_writing(tree: Any, mesh: Mesh) -> Any:
    """Logical arrays, as process 0 writes them: what lies split in its host's memory, of which others have shapes, so
    that no device needs room for what it does not compute with. All processes call it.
    """
    leaves, structure = jax.tree.flatten(tree)
    split = {i: leaf for i, leaf in enumerate(leaves) if not leaf.is_fully_replicated}
    written = bring_here(split, mesh, np.asarray if distributed.is_main() else shapes)
    return jax.tree.unflatten(
        structure, [written[i] if i in written else _local(leaf, mesh) for i, leaf in enumerate(leaves)]
    )


def bring_here(tree: Any, mesh: Mesh, keep: Callable[[jax.Array], Any]) -> Any:
    """What ``keep`` makes of each logical array, which it is given on this process's devices alone (``Target.mesh``).

    What lies split over processes is gathered, so all of them have to call this: :data:`AT_ONCE` bytes at once, which
    a device needs beside the result.
    """
    leaves, structure = jax.tree.flatten(tree)
    far = [i for i, leaf in enumerate(leaves) if not (leaf.is_fully_addressable or leaf.is_fully_replicated)]
    kept: dict[int, Any] = {}
    for some in _portions(far, [leaves[i].nbytes for i in far]):
        everywhere = NamedSharding(leaves[some[0]].sharding.mesh, PartitionSpec())
        whole = _gathered([leaves[i] for i in some], everywhere)
        brought = [keep(_local(leaf, mesh)) for leaf in whole]
        del whole
        kept |= zip(some, jax.block_until_ready(brought), strict=True)  # or the next would be gathered beside it
    return jax.tree.unflatten(
        structure, [kept[i] if i in kept else keep(_local(leaf, mesh)) for i, leaf in enumerate(leaves)]
    )


def _local(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """The same without other processes' devices; it is all on these already."""
    if leaf.is_fully_addressable:
        return leaf
    shards = [shard.data for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, NamedSharding(mesh, PartitionSpec()), shards)


def _portions(items: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """In order, as many together as have :data:`AT_ONCE` bytes."""
    some: list[int] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if some and total + size > AT_ONCE:
            yield some
            some, total = [], 0
        some.append(item)
        total += size
    if some:
        yield some
