# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is said about a run before its first step, and where it fails."""

import logging
from pathlib import Path

import numpy as np

from dreambooth_jax.train_setup import TrainSetup
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.trees import count, nbytes

log = logging.getLogger(__name__)


def report(setup: TrainSetup, *, first_step: int, n_instance: int, n_prior: int, keep_last: int) -> None:
    """What will happen, before it does.

    Args:
        setup: the run's steps.
        first_step: steps that have been taken before.
        n_instance: pictures of the subject.
        n_prior: pictures of the class.
        keep_last: checkpoints that are kept.
    """
    mapper, batches, last = setup.mapper, setup.batches, setup.last_step
    log.info("a checkpoint takes up to %.2f GB; the newest %d are kept", nbytes(setup.state) / 1e9, keep_last)
    log.info(
        "training %s (%s), computing in %s on %d x %s, %s",
        " and ".join(f"{count(tree) / 1e6:.1f}M {group}" for group, tree in setup.trainable.items()),
        setup.pipe.schedule.prediction_type,
        np.dtype(setup.pipe.unet.dtype).name,
        len(mapper.devices),
        mapper.devices[0].device_kind,
        type(mapper).__name__.lower() if len(mapper.devices) > 1 else "alone",
    )
    log.info(
        "%d instance and %d class images (λ = %g); %d examples a step; steps %d to %d show each photo %.0f times",
        n_instance,
        n_prior,
        batches.prior_weight,
        batches.examples,
        first_step,
        last,
        (last - first_step) * batches.rows / n_instance,
    )


def after_not_finite(folder: Path, *, learning_rate: float) -> str:
    """What to do about numbers that are not finite.

    Args:
        folder: of the checkpoints.
        learning_rate: its peak.
    """
    steps = complete_steps(folder)
    kept = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint was due yet"
    return (
        f"{kept} ({folder}); usual causes: a learning rate that is too large (optimizer.learning_rate={learning_rate:g}"
        "), float16 weights that overflowed when they were saved, or a scheduler_config.json whose prediction_type is "
        "not the model's"
    )
