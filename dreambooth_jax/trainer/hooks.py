# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What happens after a step: it is saved, and pictures are drawn."""

from collections.abc import Callable

from dreambooth_jax import distributed
from dreambooth_jax.config import to_dict
from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, save_beside, save_grid
from dreambooth_jax.prepare.photos import subject_of
from dreambooth_jax.progress import announced
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.finite import check_state_finite
from dreambooth_jax.training.loop import Hook
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.state import TrainState


def saving(
    training: Training, checkpoints: Checkpoints, recorder: Recorder, should_stop: Callable[[int], bool]
) -> Hook:
    """A hook that saves the state where a checkpoint is due: every so many steps, and at the end, whatever brings it.

    It raises ``NonFinite`` where a metric of any step so far, or a number that would be saved, is not finite.
    """
    every, last = training.config.checkpoint.every, training.config.train.steps
    meta = {"config": to_dict(training.config), "fingerprints": training.prepared.fingerprints}

    def save(step: int, state: TrainState) -> None:
        if step % every and step != last and not should_stop(step):
            return
        recorder.flush()
        check_state_finite(state, step)
        checkpoints.save(training.mapper.logical(state), step=step, meta=meta)

    return save


def sampling(training: Training) -> Hook:
    """A hook that draws a grid where one is due: every so many steps, and at the end."""

    def sample(step: int, state: TrainState) -> None:
        if _is_due(training, step):
            draw_samples(training, step, state)

    return sample


def _is_due(training: Training, step: int) -> bool:
    every = training.config.samples.every
    return bool(every) and (step % every == 0 or step == training.config.train.steps)


def draw_first_samples(training: Training, state: TrainState) -> None:
    """The grid from before the first step; and the one that a run lacks which ended between checkpoint and grid."""
    step, folder = training.prepared.first_step, training.folder
    is_last = step == training.config.train.steps
    lacks = not folder.samples(step).exists() or (is_last and not folder.before_after.exists())
    if _is_due(training, step) and (step == 0 or distributed.gather(lacks)[0]):
        draw_samples(training, step, state)


def draw_samples(training: Training, step: int, state: TrainState) -> None:
    """A grid from fixed seeds: rows with the identifier, then rows of the class. Process 0 alone draws."""
    params = training.best_params(state)
    if not distributed.is_main():
        return
    config, folder = training.config, training.folder
    samples, subject = config.samples, subject_of(config.data)
    settings = SampleSettings(
        prompts=[subject.fill(prompt) for prompt in (*samples.prompts, *samples.class_prompts)],
        num_images=samples.num_images,
        seed=samples.seed,
        sampling=samples.sampling(size=config.data.size),
    )
    with announced("drawing sample pictures", usually="a minute the first time, which compiles the sampler"):
        rows = draw_rows(training.pipe, settings, params=params)
    save_grid(folder.samples(step), rows, settings, title=f"step {step}")
    if 0 < step == config.train.steps and folder.samples(0).exists():
        save_beside(folder.before_after, folder.samples(0), folder.samples(step))
