# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Members who take their steps together: their rows, their rates and the state of all."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dreambooth_jax.data.member_rows import MemberRows
from dreambooth_jax.planning.members import compiled_steps
from dreambooth_jax.prepare.prepared import Prepared
from dreambooth_jax.train_setup import Groups
from dreambooth_jax.train_setup.members import MemberSetup, build_member_setup, spread_members
from dreambooth_jax.trainer.members.begun import Begun
from dreambooth_jax.trainer.members.one import One, one_of
from dreambooth_jax.trainer.members.preparing import set_up_members
from dreambooth_jax.trainer.report import report_pictures
from dreambooth_jax.trainer.scoring import opened
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.loop import Phase, PhaseInputs, Placing
from dreambooth_jax.training.member_metrics import MemberRecorder
from dreambooth_jax.training.members import MemberInputs, stack_members
from dreambooth_jax.training.parallel import MappedStep, Mapper
from dreambooth_jax.training.parallel.mapper import with_shardings
from dreambooth_jax.training.parallel.members import MemberMapper
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MemberPhaseInputs(PhaseInputs):
    """What a phase of a group runs with.

    Attributes:
        members: each one's own.
    """

    members: MemberInputs

    def batch_at(self, step: int, mapper: Placing) -> Any:
        """The rows of a step, and what it is to each member."""
        return super().batch_at(step, mapper), self.members._replace(now=jnp.int32(step))


@dataclass(frozen=True)
class _OfMembers:
    """A mapped step whose batches bring what they are to each member."""

    step: MappedStep
    whole: NamedSharding

    def __call__(self, state: Any, frozen: Any, batch: Any, _: jax.Array, /) -> tuple[Any, dict[str, jax.Array]]:
        state, metrics = self.step(state, frozen, *batch)
        return state, metrics if self.whole.mesh.size == 1 else _on_all(metrics, self.whole)

    def lower(self, state: Any, frozen: Any, batch: Any, _: Any, /) -> jax.stages.Lowered:
        return self.step.lower(state, frozen, *batch)


@partial(jax.jit, static_argnums=1)
def _on_all(metrics: dict[str, jax.Array], whole: NamedSharding) -> dict[str, jax.Array]:
    return jax.lax.with_sharding_constraint(metrics, whole)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Members who take their steps together.

    Attributes:
        begun: their places, and how far they have come.
        setup: the steps of all.
        mapper: spreads them over devices.
        steps: mapped.
        members: those that are trained.
        places: the number of the member, among ``members``, whose rows each place has; those of who is not trained
            reach nobody.
        first: the state of each member before the first step; emptied when it is taken over.
    """

    begun: Begun
    setup: MemberSetup
    mapper: MemberMapper
    steps: Mapping[Groups, MappedStep]
    members: Sequence[One]
    places: Sequence[int]
    first: list[Tree]

    @property
    def names(self) -> Sequence[str]:
        """Of all places."""
        return self.begun.places

    @property
    def last_step(self) -> int:
        """Of those who take most."""
        return self.setup.phases[-1].stop

    def first_state(self, checkpoints: Checkpoints) -> TrainState:
        """The state to go on from."""
        begun, mapper = self.begun, self.mapper
        if begun.is_restored:
            shapes = jax.eval_shape(self.setup.fresh_state, jax.eval_shape(self._stacked))
            self.first.clear()
            restored = self._taken_out(shapes) or checkpoints.restore(
                mapper.restore_target(shapes), step=begun.first_step
            )
            return mapper.place_members(replace(restored, step=self._steps_taken()))
        if not begun.first_step:
            return mapper.place_members(self.setup.fresh_state(self._taken()))
        states = []
        for number, one in enumerate(self.members):
            with closing(Checkpoints(one.folder.checkpoints)) as own:
                states.append(one.training.first_state(self.first[number], own))
        self.first.clear()
        return mapper.place_members(stack_members(states))

    def _taken_out(self, shapes: TrainState) -> TrainState | None:
        """The state of its members out of that of the group that they were in, if it is another."""
        if self.begun.source is None:
            return None
        folder, names = self.begun.source
        whole = whole_of(self.mapper)
        theirs = jax.tree.map(lambda s: jax.ShapeDtypeStruct((len(names), *s.shape[1:]), s.dtype), shapes)
        with closing(Checkpoints(folder.checkpoints)) as checkpoints:
            state = checkpoints.restore(with_shardings(theirs, lambda _: whole), step=self.begun.first_step)
        numbers = np.asarray([list(names).index(name) for name in self.names])
        state = replace(state, step=jnp.zeros(len(names), jnp.int32))  # that of all is no member's own
        return jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[numbers], tree), out_shardings=whole)(state)

    def peak(self) -> int:
        """Bytes on each device of the step that needs most; all are compiled, and run as they are then."""
        first = self.members[0].training.setup
        return max(step.peak for step in compiled_steps(self.setup, first, self.mapper, self.steps))

    def _stacked(self) -> Tree:
        return stack_members([self.first[number] for number in self.places])

    def _taken(self) -> Tree:
        found = self._stacked()
        self.first.clear()
        return found

    def _steps_taken(self) -> jax.Array:
        """Of each place."""
        runs = {name: run.first_step for name, run in self.begun.runs.items()}
        metas = {name: one["step"] for name, one in self.begun.vacant.items()}
        return jnp.asarray([(runs | metas)[name] for name in self.names], jnp.int32)

    def inputs_for(self, phase: Phase, state: TrainState) -> MemberPhaseInputs:
        """What a phase runs with."""
        active, first = phase.active, self.members[0].training
        mixtures = [one.training.data_for(active, one.state(state).trainable) for one in self.members]
        return MemberPhaseInputs(
            step=_OfMembers(self.steps[active], whole_of(self.mapper)),
            frozen=self.mapper.place(first.setup.frozen_in_step(active, first.frozen)),
            data=MemberRows(
                names=[self.names[place] for place in self.mapper.members],
                mixtures=[mixtures[self.places[place]] for place in self.mapper.members],
            ),
            learning_rates=self._rates_at,
            members=self.setup.inputs,
        )

    def _rates_at(self, step: int) -> list[dict[str, float]]:
        """Of each place, rates of the groups that it trains at a step."""
        found: list[dict[str, float]] = [{} for _ in self.names]
        for one in self.members:
            groups = one.training.setup.groups
            active = tuple(name for name, group in groups.items() if group.start <= step < group.stop)
            found[one.number] = one.training.rates_at(active, step) if step < one.last_step else {}
        return found

    def meta(self, step: int, recorder: MemberRecorder) -> dict[str, Any]:
        """What a checkpoint says of each member, in the order of their places."""
        metas = dict(self.begun.vacant)
        for one in self.members:
            stop = recorder.stopped.get(one.number)
            came = stop.step if stop else min(step, one.last_step)
            own = {"name": one.name, "step": came, "stopped": stop.why if stop else ""}
            metas[one.name] = {**one.meta, **one.quality.meta, **own}
        return {"members": [metas[name] for name in self.names]}


def group_of(begun: Begun, prepared: Sequence[Prepared], mapper: Mapper) -> Group:
    """The group that is about to take its steps."""
    members = list(begun.members)
    spread = spread_members(members[0].config, mapper.target, members=len(begun.places))
    trainings, first = set_up_members(members, list(prepared), mapper, sharers=spread.sharers)
    taken = {member.name: number for number, member in enumerate(members)}
    places = [taken.get(name, 0) for name in begun.places]
    setup = build_member_setup([members[number].config for number in places], _setups(trainings, places))
    steps = [steps if name in taken else 0 for name, steps in zip(begun.places, setup.inputs.steps)]
    setup = replace(setup, inputs=setup.inputs._replace(steps=jnp.asarray(steps, jnp.int32)))
    towers = lru_cache(opened)
    return Group(
        begun=begun,
        setup=setup,
        mapper=spread,
        steps={active: spread.map(step) for active, step in setup.pure_steps.items()},
        members=[
            one_of(
                member,
                own,
                training,
                number=begun.places.index(member.name),
                begun=begun.runs[member.name],
                whole=whole_of(spread),
                towers=towers,
            )
            for member, own, training in zip(members, prepared, trainings)
        ],
        places=places,
        first=first,
    )


def _setups(trainings: Sequence[Training], places: Sequence[int]) -> list[Any]:
    return [trainings[number].setup for number in places]


def whole_of(mapper: MemberMapper) -> NamedSharding:
    """The same on all devices of a group."""
    return NamedSharding(mapper.mesh, PartitionSpec())


def report_group(group: Group) -> None:
    """What will happen, before it does."""
    mapper, setup = group.mapper, group.members[0].training.setup
    log.info(
        "%d members take their steps together, computing in %s on %d x %s: %s",
        len(group.members),
        np.dtype(setup.pipe.unet.dtype).name,
        len(mapper.devices),
        mapper.devices[0].device_kind,
        ", ".join(one.name for one in group.members),
    )
    for one in group.members:
        training = one.training
        report_pictures(
            training.setup.batches,
            training.concepts,
            first_step=training.first_step,
            last_step=one.last_step,
            of=one.name,
        )
