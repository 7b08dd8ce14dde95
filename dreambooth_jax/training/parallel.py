# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One step function, two mappers.

A step is a pure function ``step(state, frozen, batch, root_key, *, axis_name) -> (state, metrics)`` whose loss is a sum
over the examples it is given, divided by a constant. A mapper runs it on several devices:

    Replicated (pmap)   state and frozen copied to every device, examples split, gradients added up (psum)
    Sharded (jit)       a mesh (data, fsdp); parameters and moments split along fsdp, examples along both

Both take and give the same *logical* state (no device axis), so a checkpoint of one restores into the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from dreambooth_jax.errors import InputError

StepFn = Callable[..., tuple[Any, dict[str, jax.Array]]]


@runtime_checkable
class MappedStep(Protocol):
    """``step(state, frozen, batch, root_key) -> (state, metrics)`` over devices.

    ``lower`` takes shapes (:meth:`Mapper.shapes`, :meth:`Mapper.batch_shapes`) in the place of arrays; what is compiled
    from it is what a call with such arrays runs, so that nothing is compiled twice.
    """

    def __call__(
        self, state: Any, frozen: Any, batch: Any, root_key: jax.Array, /
    ) -> tuple[Any, dict[str, jax.Array]]: ...

    def lower(self, state: Any, frozen: Any, batch: Any, root_key: Any, /) -> jax.stages.Lowered: ...


# Leaves smaller than this stay whole: gathering them costs more in latency than they take in memory.
SHARDING_THRESHOLD = 2**12


@runtime_checkable
class Mapper(Protocol):
    """How a step is spread over devices."""

    @property
    def devices(self) -> Sequence[jax.Device]:
        """All devices."""
        ...

    def place(self, tree: Any) -> Any:
        """Logical arrays (state or frozen parameters) -> where the mapped step wants them."""
        ...

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A global batch on the host -> its rows on their devices. Asynchronous."""
        ...

    def map(self, step: StepFn) -> MappedStep:
        """Compile ``step`` for all devices. The old state is donated; metrics come back as logical scalars."""
        ...

    def logical(self, placed: Any) -> Any:
        """The inverse of ``place``, without a copy to the host: what a checkpoint stores."""
        ...

    def restore_target(self, shapes: Any) -> Any:
        """Logical shapes with the shardings that a checkpoint should be read into."""
        ...

    def shapes(self, shapes: Any) -> Any:
        """Logical shapes -> those of what ``place`` makes of such arrays, with their shardings."""
        ...

    def batch_shapes(self, batch: Any) -> Any:
        """Shapes of a global batch -> those of what ``place_batch`` makes of it, with their shardings."""
        ...


@dataclass(frozen=True)
class Replicated:
    """Pure data parallelism with ``jax.pmap``: each device holds everything and sees its part of the batch."""

    devices: Sequence[jax.Device]

    def _over_devices(self, spec: PartitionSpec) -> NamedSharding:
        # The axis name must be the one that pmap uses, or the first step compiles twice.
        return NamedSharding(Mesh(np.asarray(self.devices), ("data",)), spec)

    def place(self, tree: Any) -> Any:
        """Add a leading axis of one copy per device."""

        def stack(leaf: jax.Array | np.ndarray) -> jax.Array:
            copies = [jax.device_put(leaf[None], device) for device in self.devices]
            stacked = self._over_devices(PartitionSpec("data"))
            return jax.make_array_from_single_device_arrays((len(copies), *leaf.shape), stacked, copies)

        return jax.tree.map(stack, tree)

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """[b, ...] -> [devices, b / devices, ...]."""
        n = len(self.devices)
        split = {name: rows.reshape(n, len(rows) // n, *rows.shape[1:]) for name, rows in batch.items()}
        return jax.device_put(split, self._over_devices(PartitionSpec("data")))

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
        """Every device's copy without its leading axis, together one replicated array."""
        whole = self._over_devices(PartitionSpec())

        def unstack(leaf: jax.Array) -> jax.Array:
            copies = [shard.data.squeeze(0) for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape[1:], whole, copies)

        return jax.tree.map(unstack, placed)

    def restore_target(self, shapes: Any) -> Any:
        """Read onto device 0; :meth:`place` copies it to the others."""
        return _with_shardings(shapes, lambda _: SingleDeviceSharding(self.devices[0]))

    def shapes(self, shapes: Any) -> Any:
        """With the leading axis."""
        n, sharding = len(self.devices), self._over_devices(PartitionSpec("data"))
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct((n, *s.shape), s.dtype, sharding=sharding), shapes)

    def batch_shapes(self, batch: Any) -> Any:
        """[b, ...] -> [devices, b / devices, ...]."""
        n = len(self.devices)
        rows = jax.tree.map(lambda s: jax.ShapeDtypeStruct((s.shape[0] // n, *s.shape[1:]), s.dtype), batch)
        return self.shapes(rows)


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

    def place(self, tree: Any) -> Any:
        """Split every leaf by :meth:`sharding`."""
        return jax.tree.map(lambda leaf: jax.device_put(leaf, self.sharding(leaf)), tree)

    @property
    def _rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def place_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Rows over all devices."""
        return jax.device_put(batch, self._rows)

    def map(self, step: StepFn) -> MappedStep:
        """jit; what comes out is sharded as what went in."""

        def gathered(params: Any) -> Any:
            return jax.lax.with_sharding_constraint(params, self.replicated)

        def run(state: Any, frozen: Any, batch: Any, root_key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            new, metrics = step(state, frozen, batch, root_key, axis_name=None, gather=gathered)
            return jax.lax.with_sharding_constraint(new, jax.tree.map(self.sharding, new)), metrics

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


def _with_shardings(shapes: Any, sharding_of: Callable[[Any], Sharding]) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding_of(s)), shapes)


def make_mapper(parallel: Literal["auto", "pmap", "fsdp"], devices: Sequence[jax.Device] | None = None) -> Mapper:
    """The mapper of a name. ``auto`` is pmap on several devices and plain jit on one.

    Args:
        parallel: ``auto``, ``pmap`` or ``fsdp``.
        devices: by default all of this process.
    """
    devices = list(devices or jax.local_devices())
    if parallel == "pmap" or (parallel == "auto" and len(devices) > 1):
        return Replicated(devices)
    # Mesh() has Auto axes; jax.make_mesh would give Explicit ones, which vmap refuses.
    return Sharded(Mesh(np.asarray(devices).reshape(1, -1), ("data", "fsdp")))


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
