# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run that is about to take steps, as values, and the steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dreambooth_jax import rng
from dreambooth_jax.adapters import composed, part_for
from dreambooth_jax.config import Config
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.cache import Examples, text_table
from dreambooth_jax.prepare.prepared import Prepared
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.train_setup import TrainSetup, build_train_setup, mixture_of
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.loop import Hook, Phase, PhaseInputs, run_phases
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.sharding import replicate
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """A run, but for the state that its steps change.

    Attributes:
        config: of the run.
        folder: of the run.
        setup: its steps.
        prepared: its pictures, and the step that it goes on from.
        frozen: the adapter's frozen parameters, placed by the mapper.
    """

    config: Config
    folder: RunFolder
    setup: TrainSetup
    prepared: Prepared
    frozen: Tree

    @property
    def mapper(self) -> Mapper:
        """Spreads steps over devices."""
        return self.setup.mapper

    @property
    def pipe(self) -> Pipeline:
        """The model; its parameters are shapes."""
        return self.setup.pipe

    @property
    def examples_per_step(self) -> int:
        """Instance and class examples together."""
        return self.setup.rows

    def inputs_for(self, phase: Phase, state: TrainState) -> PhaseInputs:
        """The step of a phase, with the texts and frozen parameters that it needs."""
        config, active = self.config, phase.active
        encode = not self.setup.trains_text_encoder(active)
        params = self.whole_params(state.trainable, *self.setup.encoders) if encode else {}

        def table(examples: Examples) -> ExampleTable:
            texts, index = text_table(
                self.pipe, [photo.prompt for photo in examples.photos], params=params, encode=encode
            )
            mean, logvar = examples.moments
            return ExampleTable(mean=mean, logvar=logvar, text=texts, text_index=index)

        prepared, rates = self.prepared, self.setup.learning_rates
        prior = table(prepared.prior) if prepared.prior else None
        return PhaseInputs(
            step=self.setup.steps[active],
            frozen=self.mapper.place(self.setup.frozen_in_step(active, self.frozen)),
            data=mixture_of(config, instance=table(prepared.instance), prior=prior),
            learning_rates=lambda step: {f"learning_rate/{group}": float(rates[group][step]) for group in active},
        )

    def whole_params(self, trainable: Tree, *networks: str) -> Tree:
        """Some networks, or all, whole on each of this process's devices."""
        frozen, trainable = part_for(self.setup.adapter, networks or self.pipe.params, self.frozen, trainable)
        model = composed(self.setup.adapter, frozen, self.mapper.place(trainable))
        return replicate(model, self.mapper.target.mesh)

    def best_params(self, state: TrainState) -> Tree:
        """The whole model with the moving average, where one is kept: what is sampled and exported."""
        return self.whole_params(state.ema or state.trainable)


def set_up(config: Config, folder: RunFolder, prepared: Prepared, mapper: Mapper) -> tuple[Training, Tree]:
    """(the run, what the adapter trains as it is at first). Nothing is compiled or read.

    The arrays of what is trained are the caller's: neither the run nor its pipeline holds them, so that a step may
    donate them.
    """
    setup = build_train_setup(config, prepared.pipe, mapper)
    frozen, trainable = setup.adapter.init(rng.root_key(config.train.seed), prepared.pipe.params)
    prepared = replace(prepared, pipe=setup.pipe)
    return Training(config=config, folder=folder, setup=setup, prepared=prepared, frozen=frozen), trainable


def first_state(training: Training, trainable: Tree, checkpoints: Checkpoints) -> TrainState:
    """The state to go on from, placed by the mapper; it takes ``trainable`` over."""
    setup, mapper, step = training.setup, training.mapper, training.prepared.first_step
    if not step:
        return mapper.place(setup.fresh_state(trainable))
    return mapper.place(checkpoints.restore(mapper.restore_target(setup.state), step=step))


def take_steps(
    training: Training,
    state: TrainState,
    *,
    recorder: Recorder,
    hooks: Sequence[Hook],
    should_stop: Callable[[int], bool],
) -> tuple[TrainState, int]:
    """(state, steps taken) at the end of the run, or where ``should_stop`` ended it. The given state is donated."""
    return run_phases(
        state,
        first_step=training.prepared.first_step,
        phases=training.setup.phases,
        inputs_for=training.inputs_for,
        mapper=training.mapper,
        root_key=rng.root_key(training.config.train.seed),
        recorder=recorder,
        hooks=hooks,
        should_stop=should_stop,
    )
