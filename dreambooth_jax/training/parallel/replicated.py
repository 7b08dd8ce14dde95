# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pure data parallelism with ``jax.pmap``: each device holds everything and sees its part of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.mapper import MappedStep, Step, own_rows, with_shardings


@dataclass(frozen=True)
class Replicated:
    """State and frozen parameters are whole on every device and have no device axis (``in_axes=None``): what is placed
    is logical already. Batches have a leading axis of this process's devices; ``pmap`` joins those of all processes.
    """

    target: Target

    @property
    def devices(self) -> Sequence[jax.Device]:
        """Of all processes."""
        return self.target.devices

    # The axis name must be the one that pmap uses, or the first step compiles twice.
    @cached_property
    def _local(self) -> Mesh:
        return Mesh(np.asarray(self.target.local), ("data",))

    @cached_property
    def _whole(self) -> NamedSharding:
        return NamedSharding(self._local, PartitionSpec())

    @cached_property
    def _split(self) -> NamedSharding:
        return NamedSharding(self._local, PartitionSpec("data"))

    def load(self, name: str, array: np.ndarray) -> jax.Array:
        """Whole on each of this process's devices."""
        del name
        return jax.device_put(array, self._whole)

    def place(self, tree: Any) -> Any:
        """Whole on each of this process's devices."""

        def placed(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.Array) and not leaf.sharding.is_equivalent_to(self._whole, leaf.ndim):
                leaf = leaf.addressable_data(0)  # restored to all processes: the first copy here is all that is needed
            return jax.device_put(leaf, self._whole)

        return jax.tree.map(placed, tree)

    def rows(self, count: int) -> slice:
        """A share for each device."""
        return own_rows(self.target, count)

    def place_batch(self, batch: Any) -> Any:
        """[b, ...] -> [devices, b / devices, ...]."""
        n = self._local.size
        split = jax.tree.map(lambda rows: rows.reshape(n, len(rows) // n, *rows.shape[1:]), batch)
        return jax.device_put(split, self._split)

    def map(self, step: Step) -> MappedStep:
        """Gradients are added up in the dtype of the parameters; every device then makes the same update."""

        def run(state: Any, frozen: Any, batch: Any, root_key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            sums = jax.lax.psum(step.gradients(state.trainable, frozen, batch, root_key, state.step), "data")
            return step.update(state, *sums)

        axes = (None, None, 0, None)
        return jax.pmap(
            run, axis_name="data", in_axes=axes, out_axes=None, donate_argnums=0, devices=self.target.devices
        )

    def logical(self, placed: Any) -> Any:
        """The same buffers; with several processes as arrays of all of them."""
        if len(self.target.local) == len(self.target.devices):
            return placed
        whole = NamedSharding(Mesh(np.asarray(self.target.devices), ("data",)), PartitionSpec())

        def joined(leaf: jax.Array) -> jax.Array:
            copies = [shard.data for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape, whole, copies)

        return jax.tree.map(joined, placed)

    def restore_target(self, shapes: Any) -> Any:
        """Read onto the first device of each process; :meth:`place` copies it to the others."""
        first = {device.process_index: device for device in reversed(self.target.devices)}
        whole = NamedSharding(Mesh(np.asarray(list(first.values())), ("process",)), PartitionSpec())
        return with_shardings(shapes, lambda _: whole)

    def shapes(self, shapes: Any) -> Any:
        """Whole on each device."""
        return with_shardings(shapes, lambda _: self._seen(PartitionSpec()))

    def batch_shapes(self, batch: Any) -> Any:
        """[b, ...] -> [devices, b / devices, ...]."""
        n, split = len(self.target.devices), self._seen(PartitionSpec("data"))
        here = n if self.target.described else self._local.size
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((here, s.shape[0] // n, *s.shape[1:]), s.dtype, sharding=split), batch
        )

    def _seen(self, spec: PartitionSpec) -> NamedSharding:
        """Of described devices, which are all compiled for here, pmap sees all; of real ones those of this process."""
        devices = self.target.devices if self.target.described else self.target.local
        return NamedSharding(Mesh(np.asarray(devices), ("data",)), spec)
