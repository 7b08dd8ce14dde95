# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One call of ``train``, from settings to the model.

    config -> prepare -> adapter -> steps -> checkpoints, samples -> model/

It never turns back, and whatever is done is not done again when the same command runs again.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

from dreambooth_jax import distributed
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config
from dreambooth_jax.deterministic import make_deterministic
from dreambooth_jax.locks import locked
from dreambooth_jax.planning.admit import check_state, check_steps
from dreambooth_jax.prepare.prepared import prepare
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import mapper_of
from dreambooth_jax.trainer.finish import export, is_exported, tell_what_is_over
from dreambooth_jax.trainer.hooks import draw_first_samples, sampling, saving
from dreambooth_jax.trainer.report import advice, report
from dreambooth_jax.trainer.result import RunResult, result_of
from dreambooth_jax.trainer.training import Training, first_state, set_up, take_steps
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps
from dreambooth_jax.training.interrupt import Interrupt, StopSign
from dreambooth_jax.training.metrics import Listener, MetricsFiles, NonFinite, Recorder
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
    prepared = prepare(config, folder, interrupt, mapper, before_loading=partial(check_state, config, mapper))
    if prepared is None:
        log.info("stopped while class images were made; run the same command to go on")
        taken = max(complete_steps(folder.checkpoints), default=0)
        return result_of(folder, step=taken, finished=False, stopped_by=interrupt.signal)
    if prepared.first_step == config.train.steps and is_exported(config, folder):
        return _look_at_finished(config, folder)
    training, trainable = set_up(config, folder, prepared, mapper)
    del prepared  # the last one to hold the pretrained weights of what is trained
    with closing(_checkpoints(training)) as checkpoints:
        state = first_state(training, trainable, checkpoints)
        del trainable
        state, step = _train(training, state, checkpoints, interrupt, listeners)
    finished = step == config.train.steps
    if finished:
        export(training, state)
    else:
        log.info("stopped after step %d, which is saved; run the same command to go on", step)
    return result_of(folder, step=step, finished=finished, stopped_by=None if finished else interrupt.signal)


def _look_at_finished(config: Config, folder: RunFolder) -> RunResult:
    """All is done; say where it is, and what cannot be done any more."""
    log.info("this run is finished: %s", folder.model)
    if (meta := newest_meta(folder)) and distributed.is_main():
        tell_what_is_over(meta, config)
    return result_of(folder, step=config.train.steps, finished=True)


def _checkpoints(training: Training) -> Checkpoints:
    settings = training.config.checkpoint
    return Checkpoints(training.folder.checkpoints, keep_last=settings.keep_last, keep_every=settings.keep_every)


def _train(
    training: Training,
    state: TrainState,
    checkpoints: Checkpoints,
    interrupt: Interrupt,
    listeners: Sequence[Listener],
) -> tuple[TrainState, int]:
    """Take the steps that are left, with all that happens after them, and wait until what is saved is on disk."""
    config, first_step = training.config, training.prepared.first_step
    report(training)
    check_steps(training.setup, first_step=first_step)
    is_main = distributed.is_main()
    opened = closing(MetricsFiles(training.folder.path, first_step=first_step)) if is_main else nullcontext()
    with opened as files:
        recorder = Recorder(
            [files.write, *listeners] if files else [],
            first_step=first_step,
            steps=config.train.steps,
            images_per_step=training.examples_per_step,
            log_every=config.train.log_every,
            show_bar=is_main,
        )
        stop_sign = StopSign(interrupt.requested)
        hooks = [saving(training, checkpoints, recorder, stop_sign), sampling(training)]
        try:
            draw_first_samples(training, state)
            state, step = take_steps(training, state, recorder=recorder, hooks=hooks, should_stop=stop_sign)
            checkpoints.wait()
        except NonFinite as error:
            checkpoints.wait()
            raise NonFinite(f"{error}; {advice(training)}") from error
        finally:
            recorder.close()
    return state, step
