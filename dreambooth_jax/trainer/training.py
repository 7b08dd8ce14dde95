# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run that is about to take steps, as values, and the steps. They know no config."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from dreambooth_jax import rng
from dreambooth_jax.adapters import TEACHER, composed, part_for
from dreambooth_jax.adapters.join import fixed_of_all
from dreambooth_jax.adapters.kernels import FIXED
from dreambooth_jax.config import Config
from dreambooth_jax.data.batches import ConceptTables
from dreambooth_jax.data.captions import ONE_EACH
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.prepare.prepared import Prepared, PreparedConcept
from dreambooth_jax.size import Size
from dreambooth_jax.train_setup import Groups, TrainSetup, build_train_setup
from dreambooth_jax.trainer.tables import example_tables, lesson_tables, without_lessons
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.loop import Hook, Phase, PhaseInputs, run_phases
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.drawing import for_drawing
from dreambooth_jax.training.parallel.memories import on_devices
from dreambooth_jax.training.parallel.sharding import for_writing, replicate
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters import Module
from dreambooth_jax.weights.adapters.trained import is_of_kernels, modules_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """A run, but for the state that its steps change.

    Attributes:
        setup: its steps.
        frozen: the adapter's frozen parameters, placed by the mapper.
        concepts: the subjects and their classes.
        first_step: steps that have been taken before.
        seed: everything random descends from it.
    """

    setup: TrainSetup
    frozen: Tree
    concepts: Sequence[PreparedConcept]
    first_step: int
    seed: int

    @property
    def sizes(self) -> list[Size]:
        """Sizes of the subjects' pictures: of each, some step of the run has a batch."""
        factor = self.setup.pipe.vae.config.downscale
        latents = dict.fromkeys(some.size for one in self.concepts for some in one.instance)
        return [Size(factor * size.height, factor * size.width) for size in latents]

    def first_state(self, trainable: Tree, checkpoints: Checkpoints) -> TrainState:
        """The state to go on from, placed by the mapper; it takes ``trainable`` over."""
        setup, mapper = self.setup, self.setup.mapper
        if not self.first_step:
            return mapper.place(setup.fresh_state(trainable))
        return self.state_at(checkpoints, self.first_step)

    def state_at(self, checkpoints: Checkpoints, step: int) -> TrainState:
        """The state of a checkpoint, placed by the mapper."""
        mapper = self.setup.mapper
        return mapper.place(checkpoints.restore(mapper.restore_target(self.setup.state), step=step))

    def take_steps(
        self, state: TrainState, *, recorder: Recorder, hooks: Sequence[Hook], should_stop: Callable[[int], bool]
    ) -> tuple[TrainState, int]:
        """(state, steps taken) at the end of the run, or where ``should_stop`` ended it. The given state is donated."""
        return run_phases(
            state,
            first_step=self.first_step,
            phases=self.setup.phases,
            inputs_for=self.inputs_for,
            mapper=self.setup.mapper,
            root_key=rng.root_key(self.seed),
            recorder=recorder,
            hooks=hooks,
            should_stop=should_stop,
        )

    def inputs_for(self, phase: Phase, state: TrainState) -> PhaseInputs:
        """The step of a phase, with the texts and frozen parameters that it needs."""
        setup, active = self.setup, phase.active
        return PhaseInputs(
            step=setup.steps[active],
            frozen=setup.mapper.place(setup.frozen_in_step(active, self.frozen)),
            data=self.data_for(active, state.trainable),
            learning_rates=partial(self.rates_at, active),
        )

    def rates_at(self, active: Groups, step: int) -> dict[str, float]:
        """Learning rates of some groups at a step that trains them, for the log."""
        return {
            f"learning_rate/{group}" + (f" {label}" if label else ""): float(rates[step])
            for group in active
            for label, rates in self.setup.learning_rates[group].items()
        }

    def data_for(self, active: Groups, trainable: Tree) -> Mixture:
        """Batches for steps that train some groups.

        Args:
            active: names of the groups.
            trainable: by which texts are encoded, unless a text encoder is one of those that are trained.
        """
        setup = self.setup
        encode = not setup.trains_text_encoder(active)
        params = self.whole_params(trainable, *setup.encoders) if encode else {}
        tables = partial(example_tables, setup.pipe, params=params, encode=encode)
        taught = next((one.lessons for one in self.concepts if one.lessons), None)
        concepts = [
            ConceptTables(
                name=one.concept.name,
                instance=without_lessons(tables(one.instance, one.captions), taught),
                prior=tables([one.prior], ONE_EACH)[0] if one.prior else None,
                prior_weight=one.concept.weight,
                repeats=one.concept.repeats,
                instance_weight=one.concept.instance_weight,
                lessons=lesson_tables(setup.pipe, one.instance, one.lessons, params=params, encode=encode)
                if one.lessons
                else (),
            )
            for one in self.concepts
        ]
        return setup.batches.of(concepts)

    def whole_params(self, trainable: Tree, *networks: str) -> Tree:
        """Some networks, or all, whole on each of this process's devices."""
        return replicate(self._composed(trainable, *networks), self.setup.mapper.target.mesh)

    def _composed(self, trainable: Tree, *networks: str) -> Tree:
        adapter, mapper = self.setup.adapter, self.setup.mapper
        frozen, trainable = part_for(adapter, networks or self.setup.pipe.params, self.frozen, trainable)
        return composed(adapter, on_devices(frozen), mapper.place(trainable))

    def best_params(self, state: TrainState, *networks: str) -> Tree:
        """Some networks, or all, with the average, where one is kept: what is exported. All processes call it."""
        return for_writing(
            self._composed(self.averaged(state) or state.trainable, *networks), self.setup.mapper.target.mesh
        )

    def drawn_params(self, state: TrainState, *networks: str) -> Tree:
        """The same, as they lie while pictures are drawn or validated with."""
        trainable = self.averaged(state) or state.trainable
        return for_drawing(self._composed(trainable, *networks), self.setup.mapper.target)

    @property
    def is_rounded(self) -> bool:
        """Is what is frozen kept with fewer digits than the model has?"""
        leaves = jax.tree.leaves({name: tree for name, tree in self.frozen.items() if name != TEACHER})
        return any(jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4 for leaf in leaves)

    def averaged(self, state: TrainState) -> Tree:
        """The weights that are drawn with, laid out as the trained ones, where they are others; else empty."""
        if state.ema or not self.setup.keeps_average:
            return state.ema
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state.trainable)
        return jax.jit(self.setup.averaged, out_shardings=shardings)(state)

    def best_modules(self, state: TrainState) -> dict[str, dict[str, Module]] | None:
        """What an adapter's file holds, with the moving average where one is kept; None where whole networks are
        trained. All processes call it."""
        trainable = self.averaged(state) or state.trainable
        fixed = {network: {FIXED: fixed_of_all(tree)} for network, tree in self.frozen.items()}
        if not is_of_kernels(fixed, trainable):
            return None
        trainable = self.setup.mapper.place(trainable)
        return modules_of(*replicate((fixed, trainable), self.setup.mapper.target.mesh))


def as_it_was_read(training: Training, params: Tree, config: Config) -> Training:
    """The run with what is frozen in full, for a model that is written: of the pretrained parameters, read again."""
    frozen, _ = training.setup.adapter.init(rng.root_key(config.train.seed), params)
    return replace(training, frozen=training.setup.mapper.place(frozen))


def set_up(config: Config, prepared: Prepared, mapper: Mapper) -> tuple[Training, Tree]:
    """(the run, what the adapter trains as it is at first). Nothing is compiled or read.

    The arrays of what is trained are the caller's: neither the run nor its pipeline holds them, so that a step may
    donate them.
    """
    setup = build_train_setup(config, prepared.pipe, mapper)
    frozen, trainable = setup.adapter.init(rng.root_key(config.train.seed), prepared.pipe.params)
    training = Training(
        setup=setup,
        frozen=setup.placed(frozen),  # it may have numbers of its own beside the networks
        concepts=prepared.concepts,
        first_step=prepared.first_step,
        seed=config.train.seed,
    )
    return training, trainable
