# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Fully sharded data parallelism (arXiv 1910.02054, stage 3) over a mesh (data, fsdp).

    gradients    shard_map: each layer gathers its leaves along fsdp (``models/parts.py``); their gradients are summed
                 and split again along it
    update       jit: element by element on what each device has

``train.remat`` says what the backward pass computes again, and so what it gathers again: with ``nothing`` what was
gathered is kept until its gradient is taken, all of it at the end of the forward pass, and travels once; with
``blocks`` a device has no more of it than a block needs, and it travels twice.

What travels is said here, and does not depend on how a compiler would lay it out. Kernels are gathered in the dtype
that the networks compute in, half of the bytes in bfloat16; gradients are summed in the dtype of the parameters,
float32, as under pmap: sums over 256 devices in bfloat16 would have 8 bits. Along ``data`` only a device's part of them
travels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from dreambooth_jax.models.parts import WHOLE, as_parts
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.mapper import Boxing, MappedStep, Step, own_rows, with_shardings
from dreambooth_jax.trees import Tree

# Leaves smaller than this stay whole: gathering them costs more in latency than they take in memory.
SHARDING_THRESHOLD = 2**12


@dataclass(frozen=True)
class Sharded:
    """Parameters and moments split along fsdp, examples along both axes. On a mesh of one device plain ``jit``."""

    target: Target
    mesh: Mesh

    @property
    def devices(self) -> Sequence[jax.Device]:
        """All devices of the mesh."""
        return self.target.devices

    def axis(self, leaf: Any) -> int:
        """The dimension that a leaf is split along: the largest that the fsdp axis divides; -1 where it stays whole."""
        n = self.mesh.shape["fsdp"]
        dims = [axis for axis, size in enumerate(leaf.shape) if size % n == 0]
        if n == 1 or leaf.size < SHARDING_THRESHOLD or not dims:
            return WHOLE
        return max(dims, key=lambda axis: leaf.shape[axis])

    def spec(self, leaf: Any) -> PartitionSpec:
        """Where the parts of a leaf lie."""
        axis = self.axis(leaf)
        return PartitionSpec() if axis == WHOLE else PartitionSpec(*[None] * axis, "fsdp")

    def sharding(self, leaf: Any) -> NamedSharding:
        """:meth:`spec` on the mesh."""
        return NamedSharding(self.mesh, self.spec(leaf))

    @property
    def _rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

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
        return own_rows(self.target, count)

    def place_batch(self, batch: Any) -> Any:
        """Rows over all devices."""
        return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(self._rows, rows), batch)

    def map(self, step: Step) -> MappedStep:
        """jit; what comes out is sharded as what went in."""

        def run(state: Any, frozen: Any, batch: Any, root_key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            grads, metrics = self._gradients(step, state.trainable, frozen, batch, root_key, state.step)
            new, metrics = step.update(state, grads, metrics)
            whole = NamedSharding(self.mesh, PartitionSpec())
            new = jax.lax.with_sharding_constraint(new, jax.tree.map(self.sharding, new))
            return new, jax.lax.with_sharding_constraint(metrics, whole)

        return jax.jit(run, donate_argnums=0)

    def _gradients(self, step: Step, trainable: Tree, frozen: Tree, *rest: Any) -> tuple[Tree, dict[str, jax.Array]]:
        """Sums over all examples; gradients are split as their parameters are."""
        axes, frozen_axes = (jax.tree.map(self.axis, tree) for tree in (trainable, frozen))
        specs, frozen_specs = (jax.tree.map(self.spec, tree) for tree in (trainable, frozen))
        whole = PartitionSpec()

        def local(trainable: Tree, frozen: Tree, *rest: Any) -> tuple[Tree, dict[str, jax.Array]]:
            grads, metrics = step.gradients(
                trainable,
                frozen,
                *rest,
                parts_of_trainable=self._parts(axes, step.dtype),
                parts_of_frozen=self._parts(frozen_axes, step.dtype),
            )
            return _summed(grads, axes), jax.lax.psum(metrics, ("data", "fsdp"))

        mapped = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(specs, frozen_specs, self._rows.spec, whole, whole),
            out_specs=({group: specs[group] for group in step.active}, whole),
            check_vma=False,
        )
        return mapped(trainable, frozen, *rest)

    def _parts(self, axes: Tree, dtype: DTypeLike | None) -> Boxing:
        return partial(as_parts, axes=axes, devices="fsdp", count=self.mesh.shape["fsdp"], dtype=dtype)

    def logical(self, placed: Any) -> Any:
        """Global arrays are logical already."""
        return placed

    def restore_target(self, shapes: Any) -> Any:
        """Every device reads its own part."""
        return self.shapes(shapes)

    def shapes(self, shapes: Any) -> Any:
        """Split every leaf by :meth:`sharding`."""
        return with_shardings(shapes, self.sharding)

    def batch_shapes(self, batch: Any) -> Any:
        """Rows over all devices."""
        return with_shardings(batch, lambda _: self._rows)


def _summed(grads: Tree, axes: Tree) -> Tree:
    """Over all devices; what was split is summed along fsdp already."""

    def total(grad: jax.Array, axis: int) -> jax.Array:
        return jax.lax.psum(grad, ("data", "fsdp") if axis == WHOLE else "data")

    return {group: jax.tree.map(total, grads[group], axes[group]) for group in grads}
