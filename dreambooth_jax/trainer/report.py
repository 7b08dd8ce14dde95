# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is said about a run before its first step, and where it fails."""

import logging

import numpy as np

from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.trees import count, nbytes

log = logging.getLogger(__name__)


def report(training: Training) -> None:
    """What will happen, before it does."""
    config, setup, devices = training.config, training.setup, training.mapper.devices
    n_instance = len(training.prepared.instance.photos)
    n_prior = len(training.prepared.prior.photos) if training.prepared.prior else 0
    first, last = training.prepared.first_step, config.train.steps
    size = nbytes(setup.state) / 1e9
    log.info("a checkpoint takes up to %.2f GB; the newest %d are kept", size, config.checkpoint.keep_last)
    log.info(
        "training %s (%s), computing in %s on %d x %s, %s",
        " and ".join(f"{count(tree) / 1e6:.1f}M {group}" for group, tree in setup.trainable.items()),
        training.pipe.schedule.prediction_type,
        np.dtype(training.pipe.unet.dtype).name,
        len(devices),
        devices[0].device_kind,
        type(training.mapper).__name__.lower() if len(devices) > 1 else "alone",
    )
    log.info(
        "%d instance and %d class images (λ = %g); %d examples a step; steps %d to %d show each photo %.0f times",
        n_instance,
        n_prior,
        config.prior.weight,
        training.examples_per_step,
        first,
        last,
        (last - first) * config.train.batch_size / n_instance,
    )


def advice(training: Training) -> str:
    """What to do about numbers that are not finite."""
    folder, rate = training.folder.checkpoints, training.config.optimizer.learning_rate
    steps = complete_steps(folder)
    kept = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint was due yet"
    return (
        f"{kept} ({folder}); usual causes: a learning rate that is too large (optimizer.learning_rate={rate:g}), "
        "float16 weights that overflowed when they were saved, or a scheduler_config.json whose prediction_type is not "
        "the model's"
    )
