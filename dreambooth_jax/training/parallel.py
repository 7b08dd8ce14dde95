# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One step function, two mappers.

A step is a pure function ``step(state, frozen, batch, root_key, *, axis_name) -> (state, metrics)`` whose loss is a sum
over the examples it is given, divided by a constant. A mapper runs it on several devices:

    Replicated (pmap)   state and frozen copied to every device, examples split, gradients added up (psum)
    Sharded (jit)       a mesh (data, fsdp); parameters and moments split along fsdp, examples along both

Both take and give the same *logical* state (no device axis), so a checkpoint of one restores into the other.
The devices are those of all processes, a process's own side by side: so the rows of a batch that a process needs are a
slice, which it draws itself, and fsdp groups lie within a host as long as they are no larger than its devices.
"""

import socket
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError
from dreambooth_jax.training.mapper import MappedStep as MappedStep
from dreambooth_jax.training.mapper import Mapper as Mapper
from dreambooth_jax.training.mapper import StepFn as StepFn

# Leaves smaller than this stay whole: gathering them costs more in latency than they take in memory.
SHARDING_THRESHOLD = 2**12


@dataclass(frozen=True)
class Replicated:
    """Pure data parallelism with ``jax.pmap``: each device holds everything and sees its part of the batch.

    What is placed has a leading axis of this process's devices; ``pmap`` joins those of all processes.
    """

    devices: Sequence[jax.Device]

    @property
    def _local(self) -> list[jax.Device]:
        return [device for device in self.devices if device.process_index == jax.process_index()]

    def _over_local(self, spec: PartitionSpec) -> NamedSharding:
        # The axis name must be the one that pmap uses, or the first step compiles twice.
        return NamedSharding(Mesh(np.asarray(self._local), ("data",)), spec)

    def load(self, name: str, array: np.ndarray) -> jax.Array:
        """Whole on each of this process's devices."""
        del name
        return jax.device_put(array, self._over_local(PartitionSpec()))

    def place(self, tree: Any) -> Any:
        """Add a leading axis of one copy per device."""

        leaves, structure = jax.tree.flatten(tree)
        # Of an array on several devices, restored to all processes perhaps, the first copy here is all that is needed.
        here = [leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        stacked = self._over_local(PartitionSpec("data"))

        def spread(row: jax.Array) -> jax.Array:
            copies = [jax.device_put(row, device) for device in self._local]
            return jax.make_array_from_single_device_arrays((len(copies), *row.shape[1:]), stacked, copies)

        return jax.tree.unflatten(structure, map(spread, _with_axis(here)))

    def rows(self, count: int) -> slice:
        """A share for each device."""
        return _own_rows(self.devices, count)

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """[b, ...] -> [devices, b / devices, ...]."""
        n = len(self._local)
        split = {name: rows.reshape(n, len(rows) // n, *rows.shape[1:]) for name, rows in batch.items()}
        return jax.device_put(split, self._over_local(PartitionSpec("data")))

    def map(self, step: StepFn) -> MappedStep:
        """pmap over the leading axis; the root key is the same everywhere."""
        mapped = jax.pmap(
            partial(step, axis_name="data"),
            axis_name="data",
            in_axes=(0, 0, 0, None),
            donate_argnums=0,
            devices=self.devices,
        )

        return _Replicated(mapped)

    def logical(self, placed: Any) -> Any:
        """Every device's copy without its leading axis, together one array, replicated over all processes."""
        whole = NamedSharding(Mesh(np.asarray(self.devices), ("data",)), PartitionSpec())
        stacked = self._over_local(PartitionSpec("data"))

        def own(leaf: jax.Array) -> jax.Array:
            shards = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays((len(shards), *leaf.shape[1:]), stacked, shards)

        def joined(leaf: jax.Array) -> jax.Array:
            copies = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape, whole, copies)

        leaves, structure = jax.tree.flatten(placed)
        return jax.tree.unflatten(structure, map(joined, _without_axis(stacked.mesh, list(map(own, leaves)))))

    def restore_target(self, shapes: Any) -> Any:
        """Read onto the first device of each process; :meth:`place` copies it to the others."""
        first = {device.process_index: device for device in reversed(self.devices)}
        whole = NamedSharding(Mesh(np.asarray(list(first.values())), ("process",)), PartitionSpec())
        return _with_shardings(shapes, lambda _: whole)

    def shapes(self, shapes: Any) -> Any:
        """With the leading axis."""
        n, sharding = len(self._local), self._over_local(PartitionSpec("data"))
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct((n, *s.shape), s.dtype, sharding=sharding), shapes)

    def batch_shapes(self, batch: Any) -> Any:
        """[b, ...] -> [devices, b / devices, ...]."""
        n = len(self.devices)
        rows = jax.tree.map(lambda s: jax.ShapeDtypeStruct((s.shape[0] // n, *s.shape[1:]), s.dtype), batch)
        return self.shapes(rows)


# All leaves in one program: otherwise, each shape of a leaf would be one.
@jax.jit
def _with_axis(leaves: list[Any]) -> list[jax.Array]:
    return [leaf[None] for leaf in leaves]


@partial(jax.jit, static_argnums=0)
def _without_axis(mesh: Mesh, leaves: list[jax.Array]) -> list[jax.Array]:
    """[devices, ...], a row on each device -> what is replicated."""

    def squeezed(rows: list[jax.Array]) -> list[jax.Array]:
        return [row.squeeze(0) for row in rows]

    spec = PartitionSpec("data")
    return jax.shard_map(squeezed, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=False)(leaves)


@dataclass(frozen=True)
class _Replicated:
    """A step under pmap; every device has the same metrics."""

    mapped: Any

    def __call__(self, state: Any, frozen: Any, batch: Any, root_key: jax.Array, /) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = self.mapped(state, frozen, batch, root_key)
        return state, {name: value.addressable_shards[0].data.squeeze(0) for name, value in metrics.items()}

    def lower(self, *shapes: Any) -> jax.stages.Lowered:
        return self.mapped.lower(*shapes)


@dataclass(frozen=True)
class Sharded:
    """``jax.jit`` over a mesh (data, fsdp): the fully sharded data parallelism of arXiv 1910.02054, stage 3.

    Parameters are gathered where the step composes them and gradients scattered again: XLA derives both from the
    shardings that :meth:`map` states. On a mesh of one device this is plain ``jit``.
    """

    mesh: Mesh

    @property
    def devices(self) -> Sequence[jax.Device]:
        """All devices of the mesh."""
        return list(self.mesh.devices.flat)

    def sharding(self, leaf: Any) -> NamedSharding:
        """Split the largest dimension that the fsdp axis divides; small leaves stay whole."""
        n = self.mesh.shape["fsdp"]
        dims = [axis for axis, size in enumerate(leaf.shape) if size % n == 0]
        if n == 1 or leaf.size < SHARDING_THRESHOLD or not dims:
            return NamedSharding(self.mesh, PartitionSpec())
        largest = max(dims, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * largest, "fsdp"))

    @property
    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def load(self, name: str, array: np.ndarray) -> jax.Array:
        """Split as :meth:`place` does: no device ever holds a large leaf whole."""
        del name
        return self.place(array)

    def place(self, tree: Any) -> Any:
        """Split every leaf by :meth:`sharding`."""

        def split(leaf: jax.Array | np.ndarray) -> jax.Array:
            sharding = self.sharding(leaf)
            if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
                return jax.device_put(leaf, sharding)
            host = np.asarray(leaf)  # the same on all processes: each puts its own parts onto its devices
            return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

        return jax.tree.map(split, tree)

    def rows(self, count: int) -> slice:
        """A share for each device."""
        return _own_rows(self.devices, count)

    @property
    def _rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Rows over all devices."""
        return {name: jax.make_array_from_process_local_data(self._rows, rows) for name, rows in batch.items()}

    def map(self, step: StepFn) -> MappedStep:
        """jit; what comes out is sharded as what went in."""

        def gathered(params: Any) -> Any:
            return jax.lax.with_sharding_constraint(params, self.replicated)

        def run(state: Any, frozen: Any, batch: Any, root_key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            new, metrics = step(state, frozen, batch, root_key, axis_name=None, gather=gathered)
            return jax.lax.with_sharding_constraint(new, jax.tree.map(self.sharding, new)), gathered(metrics)

        return jax.jit(run, donate_argnums=0)

    def logical(self, placed: Any) -> Any:
        """Global arrays are logical already."""
        return placed

    def restore_target(self, shapes: Any) -> Any:
        """Every device reads its own part."""
        return self.shapes(shapes)

    def shapes(self, shapes: Any) -> Any:
        """Split every leaf by :meth:`sharding`."""
        return _with_shardings(shapes, self.sharding)

    def batch_shapes(self, batch: Any) -> Any:
        """Rows over all devices."""
        return _with_shardings(batch, lambda _: self._rows)


def _with_shardings(shapes: Any, sharding_of: Callable[[Any], NamedSharding]) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding_of(s)), shapes)


def _own_rows(devices: Sequence[jax.Device], count: int) -> slice:
    own = [place for place, device in enumerate(devices) if device.process_index == jax.process_index()]
    share = count // len(devices)
    return slice(own[0] * share, (own[-1] + 1) * share)


def make_mapper(
    parallel: Literal["auto", "pmap", "fsdp"], devices: Sequence[jax.Device] | None = None, *, fsdp_devices: int = 0
) -> Mapper:
    """The mapper of a name. ``auto`` is pmap on several devices and plain jit on one.

    Args:
        parallel: ``auto``, ``pmap`` or ``fsdp``.
        devices: by default all of all processes.
        fsdp_devices: neighbours that share one copy of the state; 0 is as many as a host has. Gathering parameters,
            which happens twice a step, then stays on the links within a host, and only gradients travel between hosts.

    Raises:
        InputError: if ``fsdp_devices`` does not divide the devices.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    if parallel == "pmap" or (parallel == "auto" and len(devices) > 1):
        return Replicated(devices)
    group = fsdp_devices or len(devices) // _hosts(devices)
    if len(devices) % group:
        raise InputError(f"train.fsdp_devices {group} does not divide the {len(devices)} devices")
    # Mesh() has Auto axes; jax.make_mesh would give Explicit ones, which vmap refuses.
    return Sharded(Mesh(np.asarray(devices).reshape(-1, group), ("data", "fsdp")))


def _hosts(devices: Sequence[jax.Device]) -> int:
    """On how many machines the devices are; a machine may run several processes, as SLURM does with one per GPU."""
    names = distributed.gather(np.uint32(zlib.crc32(socket.gethostname().encode())))
    return len({int(names[device.process_index]) for device in devices}) if len(names) > 1 else 1


def check_divisible(*, batch_size: int, copies: int, accumulation: int, n_devices: int) -> None:
    """Every micro-batch must put the same number of examples on every device.

    Args:
        batch_size: instance examples per step.
        copies: 2 with prior preservation (as many class examples come on top), else 1.
        accumulation: micro-batches per step.
        n_devices: devices.

    Raises:
        InputError: naming the next batch size that works.
    """
    parts = n_devices * accumulation
    if (batch_size * copies) % parts == 0:
        return
    unit = parts // int(np.gcd(parts, copies))
    fitting = -(-batch_size // unit) * unit
    raise InputError(
        f"train.batch_size {batch_size} gives {batch_size * copies} examples per step, which {n_devices} devices x "
        f"train.accumulation {accumulation} do not divide: use train.batch_size {fitting}"
    )
