# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run without its data and weights, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from dreambooth_jax import rng
from dreambooth_jax.adapters import TEACHER, Adapter, part_for
from dreambooth_jax.data.batches import Batches, ConceptTables
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.generate import apply
from dreambooth_jax.size import Size
from dreambooth_jax.train_setup.groups import GroupTraining
from dreambooth_jax.train_setup.networks import Groups, encoders_of, networks_in_step
from dreambooth_jax.training.loop import Phase
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import Schedule
from dreambooth_jax.training.optimizer_kinds import averaged_weights
from dreambooth_jax.training.parallel import MappedStep, Mapper
from dreambooth_jax.training.parallel.memories import on_host
from dreambooth_jax.training.state import TrainState, init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import Tree, shapes


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainSetup:
    """A run without its data and weights.

    Attributes:
        pipe: the model as the adapter extends it; its parameters are the shapes of what the adapter composes.
        mapper: spreads steps over devices.
        adapter: says what is trained, and keeps the teacher where there is one.
        groups: of what is trained, each with its stretch, learning rate and optimizer.
        phases: of the run.
        batches: what a step learns from.
        concepts: names of its subjects, where there are several.
        size: of the pictures, apart from those in other buckets.
        buckets: all sizes that the subjects' pictures may have.
        masked: do photos have weights at each position?
        keeps_ema: is there a moving average?
        keeps_average: does the optimizer average?
        objective: what steps minimise.
        pure_steps: for each set of groups that a phase trains, its step on logical arrays.
        steps: the same, mapped.
        frozen: shapes of what is never trained, as it is kept during the run.
        trainable: shapes of what is, at some time.
    """

    pipe: Pipeline
    mapper: Mapper
    adapter: Adapter
    groups: Mapping[str, GroupTraining]
    phases: Sequence[Phase]
    batches: Batches
    concepts: Sequence[str]
    size: Size
    buckets: Sequence[Size]
    masked: bool
    keeps_ema: bool
    keeps_average: bool
    objective: DenoisingObjective
    pure_steps: Mapping[Groups, TrainStep]
    steps: Mapping[Groups, MappedStep]
    frozen: Tree
    trainable: Tree

    @cached_property
    def learning_rates(self) -> dict[str, dict[str, np.ndarray]]:
        """Learning rates of each group, by their labels, at each step; all at once, so that no step is waited for to
        log one."""

        def table(group: GroupTraining, schedule: Schedule) -> np.ndarray:
            rates = jax.jit(jax.vmap(schedule))(np.arange(group.stop - group.start))
            return np.pad(np.asarray(rates), (group.start, 0))

        return {
            name: {label: table(group, schedule) for label, schedule in group.schedules.items()}
            for name, group in self.groups.items()
        }

    def fresh_state(self, trainable: Tree) -> TrainState:
        """The logical state before the first step; it takes over what it is given."""
        optimizers = {name: group.optimizer for name, group in self.groups.items()}
        return init_state(trainable, optimizers, with_ema=self.keeps_ema)

    @property
    def state(self) -> TrainState:
        """Shapes of the logical state."""
        return jax.eval_shape(self.fresh_state, self.trainable)

    def averaged(self, state: TrainState) -> Tree:
        """The weights that are drawn with, where they are not those that are trained; else empty."""
        if state.ema or not self.keeps_average:
            return state.ema
        return {group: averaged_weights(state.opt_state[group], tree) for group, tree in state.trainable.items()}

    @property
    def last_step(self) -> int:
        """Of the run."""
        return self.phases[-1].stop

    @property
    def encoders(self) -> Groups:
        """Networks that read prompts."""
        return encoders_of(self.pipe)

    def at_rest(self, frozen: Tree) -> Tree:
        """What is never trained, in the dtypes that it is kept in during the run."""
        return jax.tree.map(
            lambda leaf, like: leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype), frozen, self.frozen
        )

    def trains_text_encoder(self, active: Groups) -> bool:
        """Does one of these groups change one?"""
        return not set(self.encoders).isdisjoint(networks_in_step(self.adapter, active, encoders=self.encoders))

    def frozen_in_step(self, active: Groups, frozen: Tree) -> Tree:
        """Of the frozen parameters, those that a step needs."""
        networks = networks_in_step(self.adapter, active, encoders=self.encoders, teaches=TEACHER in self.frozen)
        return part_for(self.adapter, networks, frozen, {})[0]

    @property
    def off_devices(self) -> Groups:
        """Frozen networks that lie in the host's memory but while pictures are drawn: those that no step takes, where
        devices have a memory of their own."""
        if self.mapper.target.arch.platform == "cpu":
            return ()
        taken = {name for active in self.steps for name in self.frozen_in_step(active, self.frozen)}
        return tuple(name for name in self.frozen if name not in taken)

    @property
    def frozen_on_devices(self) -> Tree:
        """Shapes of what is frozen and lies in the devices' memory all the time."""
        return {name: tree for name, tree in self.frozen.items() if name not in self.off_devices}

    def placed(self, frozen: Tree) -> Tree:
        """What is never trained, as it is kept during the run, where it lies between steps."""
        placed = self.mapper.place(self.at_rest(frozen))
        return {name: on_host(tree) if name in self.off_devices else tree for name, tree in placed.items()}

    def idle(self, active: Groups) -> Tree:
        """Shapes on each device of the frozen parameters that lie there while a step runs that does not take them."""
        needed = self.frozen_in_step(active, self.frozen)
        return self.mapper.shapes({name: tree for name, tree in self.frozen_on_devices.items() if name not in needed})

    def batch(self, active: Groups, size: Size | None = None) -> Any:
        """Shapes of a global batch: those of ``batch_at``, of pictures that take no memory.

        Args:
            active: groups that the step trains.
            size: of the instances' pictures; class images have that of the run.
        """
        instance, prior = self._table(active, size or self.size), self._table(active, self.size)
        one = ConceptTables(name="", instance=[instance], prior=prior, prior_weight=1.0)
        if TEACHER in self.frozen:
            one = replace(one, prior=None, lessons=[instance])
        concepts = [replace(one, name=name) for name in self.concepts] or [one]
        return shapes(self.batches.of(concepts).batch_at(0))

    def held_out(self, size: Size) -> ExampleTable:
        """Pictures that are validated with, one that takes no memory: with ids of their texts."""
        return replace(self._table((), size), text=self.pipe.text_leaves([""]))

    def _table(self, active: Groups, size: Size) -> ExampleTable:
        pipe, params = self.pipe, shapes(self.pipe.params)
        images = jax.ShapeDtypeStruct((1, *size, pipe.vae.config.in_channels), np.float32)
        moments = jax.eval_shape(partial(apply, pipe.vae, "encode"), params["vae"], images)
        ids = pipe.input_ids([""])
        encoded = jax.eval_shape(pipe.conditioner.__call__, params, ids).leaves()
        mean, logvar = (_blank(one, axes=1) for one in moments)
        states = {name: _blank(one) for name, one in encoded.items()}
        text = pipe.text_leaves([""]) if self.trains_text_encoder(active) else states
        if TEACHER in self.frozen:
            text = text | {f"{TEACHER}/{name}": rows for name, rows in states.items()}
        weights = np.broadcast_to(np.float32(1), mean.shape[:4]) if self.masked else None
        numbers = pipe.components.family.size_numbers
        sizes = np.zeros((1, 1, numbers), np.float32) if pipe.unet.config.takes_sizes else None
        index = np.zeros(1, np.int64)
        return ExampleTable(mean=mean, logvar=logvar, weights=weights, sizes=sizes, text=text, text_index=index)

    def step_shapes(self, active: Groups, size: Size | None = None) -> tuple[Any, ...]:
        """Logical shapes of all that a step takes: state, frozen networks, batch, root key."""
        key = jax.eval_shape(lambda: rng.root_key(0))
        return self.state, self.frozen_in_step(active, self.frozen), self.batch(active, size), key

    def lower(self, active: Groups, size: Size | None = None) -> jax.stages.Lowered:
        """A mapped step for instances of a size, ready to be compiled. When the run takes the step, it finds it
        compiled."""
        state, frozen, batch, key = self.step_shapes(active, size)
        mapper = self.mapper
        return self.steps[active].lower(mapper.shapes(state), mapper.shapes(frozen), mapper.batch_shapes(batch), key)


def _blank(shape: jax.ShapeDtypeStruct, *, axes: int = 0) -> np.ndarray:
    """One number seen as an array of this shape, with more axes after the first; float32, as caches are."""
    return np.broadcast_to(np.float32(0), (*shape.shape[:1], *[1] * axes, *shape.shape[1:]))
