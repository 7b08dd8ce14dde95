# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The steps of several runs that are taken together: members of one program, whose settings differ in data alone.

Rates become tables, stretches of groups and numbers of steps arrays with an entry for each member. A phase of all has
every group that some member trains then; who does not stays as it is. A text encoder then runs for those, too, whose
own is at rest, and says of their texts what it says where it rests for all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreambooth_jax import rng
from dreambooth_jax.adapters import TEACHER
from dreambooth_jax.config import Config, OptimizerConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup.build import batches_of
from dreambooth_jax.train_setup.groups import optimizer_with, schedule_of, stretch_of
from dreambooth_jax.train_setup.networks import Groups, networks_in_step
from dreambooth_jax.train_setup.setup import TrainSetup
from dreambooth_jax.training.loop import Phase, split_phases
from dreambooth_jax.training.members import GroupInputs, MemberInputs, MemberStep
from dreambooth_jax.training.optimizer import learning_rate_schedule
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.training.parallel import MemberMapper, check_divisible, make_member_mapper
from dreambooth_jax.training.rules import Rule, Treatment, by_kind, treatments_of
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree, flatten

Kind = tuple[Treatment, ...]
"""How some leaves are trained: by each member."""


class MemberGroup(NamedTuple):
    """How members train one group of what is trained.

    Attributes:
        optimizer: tables of rates of one member, [T] for each kind of leaves -> its optimizer.
        inputs: what each member's own are.
        stretches: of each member, the first step that trains the group and the first that no longer does.
    """

    optimizer: Callable[[Any], optax.GradientTransformation]
    inputs: GroupInputs
    stretches: Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberSetup:
    """Steps of S members.

    Attributes:
        phases: of all members.
        pure_steps: for each set of groups that a phase trains, its step.
        optimizers: of groups, as :class:`MemberGroup` has them.
        inputs: each member's own; ``now`` is that of the first step.
        keeps_ema: is there a moving average?
    """

    phases: Sequence[Phase]
    pure_steps: Mapping[Groups, MemberStep]
    optimizers: Mapping[str, Callable[[Any], optax.GradientTransformation]]
    inputs: MemberInputs
    keeps_ema: bool

    def fresh_state(self, trainable: Tree) -> TrainState:
        """The state before the first step, of leaves [S, ...], which it takes over."""

        def rest(trainable: Tree) -> tuple[dict[str, Any], Tree]:
            moments = {
                name: jax.vmap(lambda hyper, tree, name=name: self.optimizers[name](hyper).init(tree))(
                    self.inputs.groups[name].hyper, tree
                )
                for name, tree in trainable.items()
            }
            return moments, jax.tree.map(jnp.copy, trainable) if self.keeps_ema else {}

        opt_state, ema = jax.jit(rest)(trainable)
        step = jnp.zeros(len(self.inputs.steps), jnp.int32)
        return TrainState(step=step, trainable=trainable, opt_state=opt_state, ema=ema)


def step_shapes(together: MemberSetup, setup: TrainSetup, spread: MemberMapper, active: Groups) -> tuple[Any, Any, Any]:
    """Shapes of what a mapped step of members takes, where it takes them from: the state of all, frozen networks, rows.

    Args:
        together: the steps of members.
        setup: of one of them.
        spread: them over devices.
        active: groups that the step trains.
    """
    count = len(together.inputs.steps)
    trainable = jax.tree.map(lambda s: jax.ShapeDtypeStruct((count, *s.shape), s.dtype), setup.trainable)
    state = jax.eval_shape(together.fresh_state, trainable)
    frozen = setup.frozen_in_step(active, setup.frozen)
    return spread.member_shapes(state), spread.shapes(frozen), spread.batch_shapes(setup.batch(active))


def idle_bytes(setup: TrainSetup, spread: MemberMapper, active: Groups) -> int:
    """Bytes on each device of frozen parameters that lie there while a step runs that does not take them."""
    needed = setup.frozen_in_step(active, setup.frozen)
    idle = {name: tree for name, tree in setup.frozen_on_devices.items() if name not in needed}
    return bytes_per_device(spread.shapes(idle))


def spread_members(config: Config, target: Target, *, members: int) -> MemberMapper:
    """How members are spread over devices.

    Args:
        config: of one of them.
        target: the devices.
        members: how many there are.

    Raises:
        InputError: if micro-batches cannot be of one size, or ``train.fsdp_devices`` does not divide the devices.
    """
    train, batches = config.train, batches_of(config)
    check_divisible(batch_size=batches.rows, copies=batches.copies, accumulation=train.accumulation, n_devices=1)
    return make_member_mapper(
        train.parallel,
        target,
        members=members,
        rows=batches.examples // train.accumulation,
        fsdp_devices=train.fsdp_devices,
    )


def build_member_setup(configs: Sequence[Config], setups: Sequence[TrainSetup]) -> MemberSetup:
    """Make the steps of several runs; nothing is computed or compiled.

    Args:
        configs: of the members.
        setups: of each of them, were it trained alone.

    Raises:
        InputError: if they have no common step.
    """
    first, settings = setups[0], configs[0].train
    if first.adapter.members is None:
        raise InputError(f"adapter.kind={configs[0].adapter.kind} trains one subject at a time: train each alone")
    groups = {
        name: member_group(configs, name, tree, networks=first.adapter.networks(name), encoders=first.encoders)
        for name, tree in first.trainable.items()
    }
    inputs = MemberInputs(
        keys=jnp.stack([rng.root_key(config.train.seed) for config in configs]),
        steps=jnp.asarray([config.train.steps for config in configs], jnp.int32),
        now=jnp.int32(0),
        groups={name: group.inputs for name, group in groups.items()},
    )
    phases = split_phases(
        steps=max(config.train.steps for config in configs),
        stretches={name: group.stretches for name, group in groups.items()},
    )
    optimizers = {name: group.optimizer for name, group in groups.items()}

    def step_of(active: Groups) -> MemberStep:
        return MemberStep(
            objective=first.objective,
            adapter=first.adapter,
            optimizers=optimizers,
            active=active,
            accumulation=settings.accumulation,
            clip_norm=configs[0].optimizer.clip_norm,
            ema_decay=settings.ema_decay,
            dtype=first.pipe.unet.dtype,
            networks=networks_in_step(first.adapter, active, encoders=first.encoders, teaches=TEACHER in first.frozen),
        )

    return MemberSetup(
        phases=phases,
        pure_steps={active: step_of(active) for active in dict.fromkeys(phase.active for phase in phases)},
        optimizers=optimizers,
        inputs=inputs,
        keeps_ema=first.keeps_ema,
    )


def member_group(
    configs: Sequence[Config], name: str, tree: Tree, *, networks: Sequence[str], encoders: Sequence[str]
) -> MemberGroup:
    """How members train a group: as each alone does, with rates from tables.

    Args:
        configs: of the members, whose rules for leaves are the same.
        name: of the group.
        tree: shapes of what a member trains of it.
        networks: that it changes.
        encoders: networks that read prompts.

    Raises:
        InputError: if rates that the optimizer itself has a use for are not the same.
    """
    settings = configs[0].optimizer
    rules = [Rule.parse(text) for text in settings.rules]
    stretches = [stretch_of(config, name, networks, encoders) for config in configs]
    own = [treatments_of(name, tree, rules, base) for _, _, base in stretches]
    kinds = {leaf: tuple(one[leaf] for one in own) for leaf in flatten(tree)}
    different = list(dict.fromkeys(kinds.values()))
    lengths = [stop - start for start, stop, _ in stretches]

    def optimizer(tables: Sequence[Any]) -> optax.GradientTransformation:
        def of_kind(kind: Kind) -> optax.GradientTransformation:
            table = jnp.asarray(tables[different.index(kind)])
            schedule = partial(_entry, table) if not is_measured else schedule_of(settings, kind[0], lengths[0])
            return optimizer_with(settings, name, kind[0], schedule, lengths[0])

        return by_kind(tree, kinds, make=of_kind)

    is_measured = KINDS[settings.kind].finds_rate
    if is_measured and (len(set(lengths)) > 1 or any(len(set(kind)) > 1 for kind in different)):
        raise InputError(
            f"optimizer.kind={settings.kind} finds its rates: members that share a step must have the same"
        )
    ends = [(start, stop) for start, stop, _ in stretches]
    start, stop = (jnp.asarray(one, jnp.int32) for one in zip(*ends))
    inputs = GroupInputs(start, stop, [_tables(settings, kind, lengths) for kind in different])
    return MemberGroup(optimizer, inputs, ends)


def _entry(table: jax.Array, count: Any) -> jax.Array:
    return table[count]


def _tables(settings: OptimizerConfig, kind: Kind, lengths: Sequence[int]) -> np.ndarray:
    """Rates [S, T] of each member at its steps with a group; behind its last, 0."""
    rates = [_rates(one, length, settings.power, settings.cycles) for one, length in zip(kind, lengths)]
    longest = max(*lengths, 1)
    return np.stack([np.pad(one, (0, longest - len(one))) for one in rates])


@cache
def _rates(treatment: Treatment, steps: int, power: float, cycles: int) -> np.ndarray:
    schedule = learning_rate_schedule(
        treatment.schedule,
        peak=treatment.learning_rate,
        steps=steps,
        warmup_steps=treatment.warmup_steps,
        power=power,
        cycles=cycles,
    )
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps)))
