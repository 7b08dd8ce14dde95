# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is said about a run before its first step, and where it fails."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreambooth_jax.data.batches import Batches, shares_of
from dreambooth_jax.prepare.prepared import PreparedConcept
from dreambooth_jax.train_setup import TrainSetup
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.trees import count, nbytes, short

log = logging.getLogger(__name__)


def report(setup: TrainSetup, *, first_step: int, concepts: Sequence[PreparedConcept], keep_last: int) -> None:
    """What will happen, before it does.

    Args:
        setup: the run's steps.
        first_step: steps that have been taken before.
        concepts: pictures of subjects and classes.
        keep_last: checkpoints that are kept.
    """
    mapper, batches, last = setup.mapper, setup.batches, setup.last_step
    size = nbytes(setup.state)
    amount = f"{size / 1e9:.2f} GB" if size > 1e9 else f"{size / 1e6:.3g} MB"
    log.info("a checkpoint takes up to %s; the newest %d are kept", amount, keep_last)
    log.info(
        "training %s (%s), computing in %s on %d x %s, %s",
        " and ".join(f"{short(count(tree))} {group}" for group, tree in setup.trainable.items()),
        setup.pipe.schedule.prediction_type,
        np.dtype(setup.pipe.unet.dtype).name,
        len(mapper.devices),
        mapper.devices[0].device_kind,
        type(mapper).__name__.lower() if len(mapper.devices) > 1 else "alone",
    )
    report_pictures(batches, concepts, first_step=first_step, last_step=last)


def report_pictures(
    batches: Batches, concepts: Sequence[PreparedConcept], *, first_step: int, last_step: int, of: str = ""
) -> None:
    """What a run's steps learn from.

    Args:
        batches: of the run.
        concepts: pictures of subjects and classes.
        first_step: steps that have been taken before.
        last_step: of the run.
        of: whose run it is, where there are several.
    """
    counts = [one.n_photos for one in concepts]
    for one, count_, share in zip(concepts, counts, shares_of(counts, [one.concept.repeats for one in concepts])):
        log.info(
            "%s%s%d instance images and %s (λ = %g); %d examples a step; steps %d to %d show each photo %.0f times",
            f"{of}: " if of else "",
            f"{one.concept.name}: " if one.concept.name else "",
            count_,
            f"a teacher of {len(one.lessons.captions.templates)} prompts"
            if one.lessons
            else f"{len(one.prior.photos) if one.prior else 0} class images",
            one.concept.weight,
            batches.examples,
            first_step,
            last_step,
            (last_step - first_step) * batches.rows * float(share) / count_,
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
