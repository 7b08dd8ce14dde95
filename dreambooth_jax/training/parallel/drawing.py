# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where parameters that are sharded for training lie while pictures are drawn: whole on each device, which is faster,
or, where a whole copy takes too much of a device, each device's part of every large one, which layers gather one after
the other (``models/parts.py``).
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax.models.parts import WHOLE
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.mapper import with_shardings
from dreambooth_jax.training.parallel.sharding import ROWS, bring_here, replicate
from dreambooth_jax.trees import nbytes

MOST_OF_A_DEVICE = 0.5
"""Share of a device's memory that a whole copy may take; what is trained lies beside it."""
SMALL = 2**12
"""Numbers of a leaf that stays whole: gathering fewer costs more in latency than they take in memory."""


def for_drawing(params: Any, target: Target) -> Any:
    """Logical arrays, or shapes with shardings -> the same as a pipeline draws with them.

    What one of several processes draws the others need not, so each has all parameters: split over its own devices.
    """
    if stays_in_parts(params, target):
        return split(params, target.mesh)
    if _are_arrays(params):
        return replicate(params, target.mesh)
    return with_shardings(params, lambda _: NamedSharding(target.mesh, PartitionSpec()))


def stays_in_parts(params: Any, target: Target) -> bool:
    """Whether parameters that lie in parts are too large to be whole on each device."""
    if target.memory is None or len(target.local) == 1:
        return False
    is_whole = all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))
    return not is_whole and nbytes(params) > MOST_OF_A_DEVICE * target.memory


def split(params: Any, mesh: Mesh) -> Any:
    """Every large leaf along its largest axis that the mesh divides, one part on each device."""

    def sharding(leaf: Any) -> NamedSharding:
        dims = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        axis = max(dims, key=lambda axis: leaf.shape[axis]) if dims and leaf.size >= SMALL else WHOLE
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS) if axis != WHOLE else PartitionSpec())

    if not _are_arrays(params):
        return with_shardings(params, sharding)
    return bring_here(params, mesh, lambda leaf: jax.device_put(leaf, sharding(leaf)))


def _are_arrays(params: Any) -> bool:
    return all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
