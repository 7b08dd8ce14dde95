# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A whole run, and the only place where everything meets.

    config -> prepare -> adapter -> steps -> checkpoints, samples -> model/

It never turns back, and whatever is done is not done again when the same command runs again.
"""

import dataclasses
import logging
from functools import partial
from pathlib import Path

import numpy as np

from dreambooth_jax import distributed, rng
from dreambooth_jax.adapters import composed, part_for
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.deterministic import make_deterministic
from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, save_beside, save_grid
from dreambooth_jax.export import save_pretrained
from dreambooth_jax.planning.admit import check_state, check_steps
from dreambooth_jax.prepare.cache import Examples, text_table
from dreambooth_jax.prepare.photos import subject_of
from dreambooth_jax.prepare.prepared import Prepared, prepare
from dreambooth_jax.progress import announced
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup, mapper_of, mixture_of
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.interrupt import Interrupt, StopSign
from dreambooth_jax.training.loop import Hook, Phase, PhaseInputs, run_phases
from dreambooth_jax.training.metrics import MetricsFiles, NonFinite, Recorder
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.sharding import replicate
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree, count, nbytes

log = logging.getLogger(__name__)


def train(config: Config) -> Path:
    """Personalise a model; the same call again goes on where it stopped.

    Returns:
        The run's folder. Its ``model/`` is the result, unless a signal ended the run before its last step.

    Raises:
        InputError: for anything wrong with settings, files or pictures, if it cannot fit into the devices' memory, and
            if the loss is not finite.
    """
    check_config(config)
    if config.train.deterministic:
        make_deterministic()
    mapper = mapper_of(config, Target.here())
    folder = RunFolder(Path(config.run_dir))
    with Interrupt() as interrupt:
        prepared = prepare(config, folder, interrupt, mapper, before_loading=partial(check_state, config, mapper))
        if prepared is None:
            log.info("stopped while class images were made; run the same command to go on")
        elif prepared.first_step == config.train.steps and distributed.gather(folder.model.exists())[0]:
            log.info("this run is finished: %s", folder.model)
        else:
            training = Training(config, folder, prepared, mapper)
            del prepared  # the last one to hold the pretrained weights of what is trained
            training.run(interrupt)
    distributed.barrier("the run is over")  # process 0 still wrote the model
    return folder.path


class Training:
    """The steps of one run, and what is saved on the way."""

    def __init__(self, config: Config, folder: RunFolder, prepared: Prepared, mapper: Mapper):
        self.config, self.folder, self.mapper = config, folder, mapper
        setup = build_train_setup(config, prepared.pipe, mapper)
        self.adapter, self.phases = setup.adapter, setup.phases
        self.frozen, trainable = self.adapter.init(rng.root_key(config.train.seed), prepared.pipe.params)
        # What is trained belongs to the state, which donates it: the pipeline keeps only shapes.
        self.setup, self.pipe = setup, setup.pipe
        self.prepared = dataclasses.replace(prepared, pipe=self.pipe)
        self.checkpoints = Checkpoints(
            folder.checkpoints, keep_last=config.checkpoint.keep_last, keep_every=config.checkpoint.keep_every
        )
        self.state = self._first_state(trainable)

    def _first_state(self, trainable: Tree) -> TrainState:
        expected = self.setup.state
        size = nbytes(expected) / 1e9
        log.info("a checkpoint takes up to %.2f GB; the newest %d are kept", size, self.config.checkpoint.keep_last)
        step = self.prepared.first_step
        if not step:
            return self.mapper.place(self.setup.fresh_state(trainable))
        return self.mapper.place(self.checkpoints.restore(self.mapper.restore_target(expected), step=step))

    def run(self, interrupt: Interrupt) -> None:
        """Train, and export at the end; after a signal, only save."""
        config, first_step = self.config, self.prepared.first_step
        self.report()
        check_steps(self.setup, first_step=first_step)
        stop_sign = StopSign(interrupt.requested)
        files = MetricsFiles(self.folder.path, first_step=first_step) if distributed.is_main() else None
        recorder = Recorder(
            files,
            first_step=first_step,
            steps=config.train.steps,
            images_per_step=self.examples_per_step,
            log_every=config.train.log_every,
        )
        try:
            if first_step == 0 and config.samples.every:
                self.draw_samples(0, self.state)
            state, step = run_phases(
                self.state,
                first_step=first_step,
                phases=self.phases,
                inputs_for=self.inputs_for,
                mapper=self.mapper,
                root_key=rng.root_key(config.train.seed),
                recorder=recorder,
                hooks=self.hooks(recorder, stop_sign),
                should_stop=stop_sign,
            )
            self.checkpoints.wait()
        except NonFinite as error:
            self.checkpoints.wait()
            raise NonFinite(f"{error}; {self.advice()}") from error
        finally:
            recorder.close()
            if files:
                files.close()
            self.checkpoints.close()
        if step < config.train.steps:
            log.info("stopped after step %d, which is saved; run the same command to go on", step)
        else:
            self.export(state)

    @property
    def examples_per_step(self) -> int:
        """Instance and class examples together."""
        return self.config.train.batch_size * (2 if self.prepared.prior else 1)

    def report(self) -> None:
        """What will happen, before it does."""
        config, devices = self.config, self.mapper.devices
        n_instance = len(self.prepared.instance.photos)
        n_prior = len(self.prepared.prior.photos) if self.prepared.prior else 0
        log.info(
            "training %s (%s), computing in %s on %d x %s, %s",
            " and ".join(f"{count(tree) / 1e6:.1f}M {group}" for group, tree in self.setup.trainable.items()),
            self.pipe.schedule.prediction_type,
            np.dtype(self.pipe.unet.dtype).name,
            len(devices),
            devices[0].device_kind,
            type(self.mapper).__name__.lower() if len(devices) > 1 else "alone",
        )
        log.info(
            "%d instance and %d class images (λ = %g); %d examples a step; steps %d to %d show each photo %.0f times",
            n_instance,
            n_prior,
            config.prior.weight,
            self.examples_per_step,
            self.prepared.first_step,
            config.train.steps,
            config.train.steps * config.train.batch_size / n_instance,
        )

    def inputs_for(self, phase: Phase, state: TrainState) -> PhaseInputs:
        """The step of a phase, with the texts and frozen parameters that it needs."""
        config = self.config
        frozen = not self.setup.trains_text_encoder(phase.active)
        params = self.whole_params(state.trainable, *self.setup.encoders) if frozen else {}

        def table(examples: Examples) -> ExampleTable:
            texts, index = text_table(
                self.pipe, [photo.prompt for photo in examples.photos], params=params, encode=frozen
            )
            mean, logvar = examples.moments
            return ExampleTable(mean=mean, logvar=logvar, text=texts, text_index=index)

        prepared, rates = self.prepared, self.setup.learning_rates
        prior = table(prepared.prior) if prepared.prior else None
        return PhaseInputs(
            step=self.setup.steps[phase.active],
            frozen=self.mapper.place(self.setup.frozen_in_step(phase.active, self.frozen)),
            data=mixture_of(config, instance=table(prepared.instance), prior=prior),
            learning_rates=lambda step: {f"learning_rate/{group}": float(rates[group][step]) for group in phase.active},
        )

    def whole_params(self, trainable: Tree, *networks: str) -> Tree:
        """Some networks, or all, whole on each of this process's devices."""
        frozen, trainable = part_for(self.adapter, networks or self.pipe.params, self.frozen, trainable)
        return replicate(composed(self.adapter, frozen, self.mapper.place(trainable)), self.mapper.target.mesh)

    def best_params(self, state: TrainState) -> Tree:
        """The whole model with the moving average, where one is kept: what is sampled and exported."""
        return self.whole_params(state.ema or state.trainable)

    def hooks(self, recorder: Recorder, stop_sign: StopSign) -> list[Hook]:
        """What happens after a step: first its checkpoint, then its samples."""
        config, last = self.config, self.config.train.steps

        def checkpoint(step: int, state: TrainState) -> None:
            if step % config.checkpoint.every and step != last and not stop_sign(step):
                return
            recorder.flush()  # raises if any step so far was not finite: nothing bad is ever saved
            meta = {"config": to_dict(config), "fingerprints": self.prepared.fingerprints}
            self.checkpoints.save(self.mapper.logical(state), step=step, meta=meta)

        def samples(step: int, state: TrainState) -> None:
            if config.samples.every and (step % config.samples.every == 0 or step == last):
                self.draw_samples(step, state)

        return [checkpoint, samples]

    def draw_samples(self, step: int, state: TrainState) -> None:
        """A grid from fixed seeds: rows with the identifier, then rows of the class. Process 0 alone draws."""
        params = self.best_params(state)
        if not distributed.is_main():
            return
        samples, subject = self.config.samples, subject_of(self.config.data)
        settings = SampleSettings(
            prompts=[subject.fill(prompt) for prompt in (*samples.prompts, *samples.class_prompts)],
            num_images=samples.num_images,
            seed=samples.seed,
            sampling=samples.sampling(size=self.config.data.size),
        )
        with announced("drawing sample pictures", usually="a minute the first time, which compiles the sampler"):
            rows = draw_rows(self.pipe, settings, params=params)
        save_grid(self.folder.samples(step), rows, settings, title=f"step {step}")
        if 0 < step == self.config.train.steps and self.folder.samples(0).exists():
            save_beside(self.folder.before_after, self.folder.samples(0), self.folder.samples(step))

    def export(self, state: TrainState) -> None:
        """Write the diffusers folder. Process 0 alone does."""
        config, params = self.config.export, self.best_params(state)
        if not distributed.is_main():
            return
        save_pretrained(self.folder.model, self.pipe, params, format=config.format, dtype=config.dtype)
        log.info("the personalised model is in %s", self.folder.model)

    def advice(self) -> str:
        """What to do about a loss that is not finite."""
        steps = self.checkpoints.steps()
        kept = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint was due yet"
        return (
            f"{kept} ({self.folder.checkpoints}); usual causes: a learning rate that is too large "
            f"(optimizer.learning_rate={self.config.optimizer.learning_rate:g}), float16 weights that overflowed when "
            "they were saved, or a scheduler_config.json whose prediction_type is not the model's"
        )
