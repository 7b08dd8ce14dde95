# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One call of ``train``, from settings to the model.

    config -> prepare -> adapter -> steps -> checkpoints, samples -> model/

It never turns back, and whatever is done is not done again when the same command runs again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from dreambooth_jax import distributed
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.deterministic import make_deterministic
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.planning.admit import check_state, check_steps
from dreambooth_jax.prepare.prepared import prepare
from dreambooth_jax.prepare.told import told_of
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import mapper_of
from dreambooth_jax.trainer.finish import export, is_finished, step_to_export
from dreambooth_jax.trainer.grids import Grids, grids_of, sampling
from dreambooth_jax.trainer.quality import Quality, quality_of
from dreambooth_jax.trainer.recording import recording
from dreambooth_jax.trainer.report import after_not_finite, report
from dreambooth_jax.trainer.result import RunResult, result_of
from dreambooth_jax.trainer.saving import saving
from dreambooth_jax.trainer.training import Training, set_up
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps
from dreambooth_jax.training.interrupt import Interrupt, StopSign
from dreambooth_jax.training.loop import Hook
from dreambooth_jax.training.metrics import Listener, NonFinite
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.state import TrainState

log = logging.getLogger(__name__)


def train(
    config: Config, *, listeners: Sequence[Listener] = (), should_stop: Callable[[], bool] = lambda: False
) -> RunResult:
    """Personalise a model; the same call again goes on where it stopped.

    Args:
        config: of the run.
        listeners: called as ``listener(step, values)`` with each line of ``metrics.jsonl``, on process 0.
        should_stop: asked between steps, and between class images; once it is true, the run ends after the step at
            hand, which is saved, as after a signal.

    Returns:
        Where the run is and how far it came.

    Raises:
        InputError: for anything wrong with settings, files or pictures, if another process runs in the folder, if it
            cannot fit into the devices' memory, and if a loss or a weight is not finite.
    """
    check_config(config)
    for one in (*listeners, should_stop):
        if not callable(one):
            raise InputError(f"{one!r} is no function: listeners and should_stop are called")
    if config.train.deterministic:
        make_deterministic()
    mapper = mapper_of(config, Target.here())
    folder = RunFolder(Path(config.run_dir))
    with locked(folder.path), Interrupt(should_stop) as interrupt:
        result = _run(config, folder, mapper, interrupt, listeners)
        distributed.barrier("the run is over")  # process 0 still wrote the model
    return result


def _run(
    config: Config, folder: RunFolder, mapper: Mapper, interrupt: Interrupt, listeners: Sequence[Listener]
) -> RunResult:
    grids = grids_of(config, folder)
    prepared = prepare(config, folder, interrupt, mapper, before_loading=partial(check_state, config, mapper))
    if prepared is None:
        log.info("stopped while class images were made; run the same command to go on")
        taken = max(complete_steps(folder.checkpoints), default=0)
        return result_of(folder, step=taken, finished=False, stopped_by=interrupt.signal)
    if is_finished(config, folder, step=prepared.first_step):
        return result_of(folder, step=config.train.steps, finished=True)
    training, trainable = set_up(config, prepared, mapper)
    pictures = told_of(prepared.concepts)
    meta = {"config": to_dict(config), "fingerprints": prepared.fingerprints, "pictures": pictures}
    del prepared  # the last one to hold the pretrained weights of what is trained
    begun_from = (newest_meta(folder) or {}) if training.first_step else {}
    quality = quality_of(config, training, grids, meta=begun_from, metrics=folder.path / "metrics.jsonl")
    keep_last, keep_every = config.checkpoint.keep_last, config.checkpoint.keep_every
    with closing(
        Checkpoints(folder.checkpoints, keep_last=keep_last, keep_every=keep_every, best=quality.best_step)
    ) as checkpoints:
        state = training.first_state(trainable, checkpoints)
        del trainable
        report(
            training.setup,
            first_step=training.first_step,
            concepts=training.concepts,
            keep_last=keep_last,
        )
        check_steps(config, training.setup, first_step=training.first_step, sizes=training.sizes)
        state, step = _train(config, folder, training, grids, quality, state, checkpoints, meta, interrupt, listeners)
        finished = step == config.train.steps
        if finished and (chosen := step_to_export(config.export, best=quality.best.step, last=step)) != step:
            del state
            state = training.state_at(checkpoints, chosen)
    if finished:
        export(config, folder, training, state, step=step, of=chosen)
    else:
        log.info("stopped after step %d, which is saved; run the same command to go on", step)
    return result_of(folder, step=step, finished=finished, stopped_by=None if finished else interrupt.signal)


def _train(
    config: Config,
    folder: RunFolder,
    training: Training,
    grids: Grids,
    quality: Quality,
    state: TrainState,
    checkpoints: Checkpoints,
    meta: Mapping[str, Any],
    interrupt: Interrupt,
    listeners: Sequence[Listener],
) -> tuple[TrainState, int]:
    """Take the steps that are left, with all that happens after them, and wait until what is saved is on disk."""
    with recording(config, folder, training, [quality.observe, *listeners]) as recorder:
        stop_sign = StopSign(interrupt.requested)
        save = saving(
            checkpoints,
            training.setup.mapper,
            recorder,
            every=config.checkpoint.every,
            last=config.train.steps,
            should_stop=stop_sign,
            meta=lambda: {**meta, **quality.meta},
            averaged=training.averaged,
            is_best=quality.is_best,
        )
        draw = sampling(grids, training)
        measure = partial(quality.run, recorder=recorder)
        hooks: list[Hook] = [measure, save, draw]
        try:
            measure(training.first_step, state)
            draw(training.first_step, state)
            state, step = training.take_steps(state, recorder=recorder, hooks=hooks, should_stop=stop_sign)
            checkpoints.wait()
        except NonFinite as error:
            checkpoints.wait()
            way_out = after_not_finite(folder.checkpoints, learning_rate=config.optimizer.learning_rate)
            raise NonFinite(f"{error}; {way_out}") from error
    return state, step
