# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Members over devices: a mesh on which no two devices need each other where each has whole members.

    state, metrics   each device has its members'                    no traffic
    rows             its members' own, or a part of them             gradients are added up over the devices of a member
    frozen           whole on every device, or split over neighbours and gathered layer by layer

Neighbours that share what is frozen are several members' devices, or a part of one's. So the mesh has four axes, the
first ones outside: members lie along (copy, member), a member's rows along (part, row), what is frozen is split along
(member, row); one of the two axes in the middle has the length 1.

Where members do not fill the mesh, the last is there several times: copies that take no steps and are left out again of
what is logical. Devices are those of all processes, a process's own side by side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax.models.parts import WHOLE, as_parts
from dreambooth_jax.target import Target
from dreambooth_jax.training.members import MemberInputs, MemberStep, as_rows, by_member
from dreambooth_jax.training.parallel.choose import neighbours
from dreambooth_jax.training.parallel.mapper import MappedStep, with_shardings
from dreambooth_jax.training.parallel.sharded import SHARDING_THRESHOLD
from dreambooth_jax.trees import Tree

_MEMBERS, _ROWS, _FROZEN = ("copy", "member"), ("part", "row"), ("member", "row")


@dataclass(frozen=True)
class MemberMapper:
    """Spreads a :class:`~dreambooth_jax.training.members.MemberStep` over devices.

    Attributes:
        target: the devices.
        mesh: of them, as this module has it.
        count: S, the number of members.
        splits_frozen: does each device have a part of what is frozen, instead of all?
    """

    target: Target
    mesh: Mesh
    count: int
    splits_frozen: bool = False

    @property
    def across(self) -> int:
        """How many devices, or groups of them that share members, there are side by side."""
        return self._along(_MEMBERS)

    @property
    def sharers(self) -> int:
        """Devices that share the rows of a member."""
        return self._along(_ROWS)

    def _along(self, axes: Sequence[str]) -> int:
        return math.prod(self.mesh.shape[axis] for axis in axes)

    @property
    def devices(self) -> Sequence[jax.Device]:
        """All of them, of all processes."""
        return self.target.devices

    @property
    def places(self) -> int:
        """Members that the mesh has room for: S or, with copies of the last, more."""
        return -(-self.count // self.across) * self.across

    @property
    def members(self) -> list[int]:
        """Of each place that this process has a part of, the number of the member whose rows it brings."""
        first, last = self._own
        each, share = self.sharers, self.places // self.across
        return [min(place, self.count - 1) for place in range(first // each * share, (last // each + 1) * share)]

    def rows(self, count: int) -> slice:
        """Those of a member's ``count`` rows that this process brings."""
        first, last = self._own
        each = self.sharers
        if last - first + 1 >= each:
            return slice(0, count)
        return slice(first % each * count // each, (last % each + 1) * count // each)

    @property
    def _own(self) -> tuple[int, int]:
        """The first and the last of this process's devices."""
        own = [place for place, device in enumerate(self.devices) if device.process_index == self.target.process]
        return own[0], own[-1]

    def _sharding(self, *axes: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def frozen_axis(self, leaf: Any) -> int:
        """The dimension that a frozen leaf is split along; -1 where it stays whole."""
        dims = [axis for axis, size in enumerate(leaf.shape) if size % self._along(_FROZEN) == 0]
        if not self.splits_frozen or self._along(_FROZEN) == 1 or leaf.size < SHARDING_THRESHOLD or not dims:
            return WHOLE
        return max(dims, key=lambda axis: leaf.shape[axis])

    def _frozen_spec(self, leaf: Any) -> PartitionSpec:
        axis = self.frozen_axis(leaf)
        return PartitionSpec() if axis == WHOLE else PartitionSpec(*[None] * axis, _FROZEN)

    def place(self, frozen: Any) -> Any:
        """What members share -> whole on every device, or its parts."""
        return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(self.mesh, self._frozen_spec(leaf))), frozen)

    def place_members(self, state: Any) -> Any:
        """A state of leaves [S, ...] -> each member's on its devices."""
        padded = _padded(state, self.places - self.count) if self.places > self.count else state
        return jax.tree.map(lambda leaf: _put(leaf, self._sharding(_MEMBERS)), padded)

    def place_batch(self, batch: Any) -> Any:
        """Rows of :attr:`members`, of each those that :meth:`rows` says -> [places, b, ...] on their devices."""
        own = by_member(batch, len(self.members))
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(self._sharding(_MEMBERS, _ROWS), np.asarray(rows)), own
        )

    def map(self, step: MemberStep) -> MappedStep:
        """``step(state, frozen, batch, members) -> (state, metrics)``: the old state is donated, and metrics are
        [places], those of S members and of copies. ``members`` are :class:`MemberInputs` of S."""

        def run(state: Any, frozen: Any, batch: Any, members: MemberInputs) -> tuple[Any, dict[str, jax.Array]]:
            own, whole = PartitionSpec(_MEMBERS), PartitionSpec()
            mapped = jax.shard_map(
                partial(self._local, step, jax.tree.map(self.frozen_axis, frozen)),
                mesh=self.mesh,
                in_specs=(own, jax.tree.map(self._frozen_spec, frozen), PartitionSpec(_MEMBERS, _ROWS), whole),
                out_specs=(own, own),
                check_vma=False,
            )
            return mapped(state, frozen, batch, members)

        return jax.jit(run, donate_argnums=0)

    def _local(
        self, step: MemberStep, axes: Tree, state: Any, frozen: Any, batch: Any, members: MemberInputs
    ) -> tuple[Any, dict[str, jax.Array]]:
        """What one device does."""
        members = self._of_device(members)
        boxes = partial(as_parts, axes=axes, devices=_FROZEN, count=self._along(_FROZEN), dtype=step.dtype)
        sums = step.gradients(state.trainable, frozen, as_rows(batch), members, state.step, parts_of_frozen=boxes)
        if self.sharers > 1:
            sums = jax.lax.psum(sums, _ROWS)
        return step.update(state, *sums, members)

    def _of_device(self, members: MemberInputs) -> MemberInputs:
        """What its own members are given, of all; copies of the last take no steps."""
        missing, share = self.places - self.count, self.places // self.across
        first = jax.lax.axis_index(_MEMBERS) * share
        steps = jnp.pad(members.steps, (0, missing))
        keys, groups = _filled_up((members.keys, members.groups), missing)
        keys, steps, groups = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, share), (keys, steps, groups)
        )
        return MemberInputs(keys=keys, steps=steps, now=members.now, groups=groups)

    def logical(self, placed: Any) -> Any:
        """The inverse of :meth:`place_members`: leaves [S, ...], what a checkpoint stores."""
        if self.places == self.count:
            return placed
        return _shortened(placed, self.count, self._sharding())

    def restore_target(self, shapes: Any) -> Any:
        """Logical shapes [S, ...] with the shardings that a checkpoint should be read into."""
        sharding = self._sharding(_MEMBERS) if self.places == self.count else self._sharding()
        return with_shardings(shapes, lambda _: sharding)

    def shapes(self, frozen: Any) -> Any:
        """Shapes -> those of what :meth:`place` makes of such arrays, with their shardings."""
        return with_shardings(frozen, lambda leaf: NamedSharding(self.mesh, self._frozen_spec(leaf)))

    def member_shapes(self, state: Any) -> Any:
        """Shapes [S, ...] -> those of what :meth:`place_members` makes of such arrays."""
        padded = jax.tree.map(lambda s: jax.ShapeDtypeStruct((self.places, *s.shape[1:]), s.dtype), state)
        return with_shardings(padded, lambda _: self._sharding(_MEMBERS))

    def batch_shapes(self, batch: Any) -> Any:
        """Shapes of one member's rows [b, ...] -> those of what :meth:`place_batch` makes of all."""
        every = jax.tree.map(lambda s: jax.ShapeDtypeStruct((self.places, *s.shape), s.dtype), batch)
        return with_shardings(every, lambda _: self._sharding(_MEMBERS, _ROWS))


def make_member_mapper(
    parallel: Literal["auto", "pmap", "fsdp"], target: Target, *, members: int, rows: int, fsdp_devices: int = 0
) -> MemberMapper:
    """Members over all devices, so that the device with the most rows has as few as can be.

    Args:
        parallel: ``fsdp`` splits what is frozen over devices; otherwise each has it whole.
        target: the devices.
        members: S.
        rows: of each member in a micro-batch. Devices share a member's where there are more of them than members.
        fsdp_devices: neighbours that share what is frozen; 0 is as many as a host has, so that nothing that is gathered
            travels between hosts.

    Raises:
        InputError: if ``fsdp_devices`` does not divide the devices.
    """
    count, each = len(target.devices), len(target.devices) // target.hosts
    group = neighbours(target, fsdp_devices) if parallel == "fsdp" else each
    whole = each, group, len(target.local)  # of which none has a part of another's members and a part of its own

    def most(shared: int) -> tuple[int, int]:
        return -(-members // (count // shared)) * (rows // shared), shared

    def fits(shared: int) -> bool:
        return count % shared == rows % shared == 0 and all(n % shared == 0 or shared % n == 0 for n in whole)

    shared = min(filter(fits, range(1, count + 1)), key=most)
    row = min(shared, group)
    shape = count // max(shared, group), max(shared, group) // shared, shared // row, row
    mesh = Mesh(np.asarray(target.devices).reshape(shape), (*_MEMBERS, *_ROWS))
    return MemberMapper(target, mesh, members, splits_frozen=parallel == "fsdp")


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)  # the same on all processes: each puts its own parts onto its devices
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])


def _filled_up(tree: Any, missing: int) -> Any:
    """[S, ...] with so many more copies of the last."""
    return jax.tree.map(lambda x: jnp.concatenate([x, *[x[-1:]] * missing]) if missing else x, tree)


_padded = jax.jit(_filled_up, static_argnums=1)


@partial(jax.jit, static_argnums=(1, 2))
def _shortened(tree: Any, count: int, sharding: NamedSharding) -> Any:
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x[:count], tree), sharding)
