# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures to look at: of the subject and of the class, as the run draws them, and as its model did before training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dreambooth_jax.assessment.drawn import Counts, draw, groups_of
from dreambooth_jax.assessment.subjects import Sitter
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.evaluation.scores import Group, Kind, Material
from dreambooth_jax.runs import OpenedModel


def material_of(
    model: OpenedModel,
    sitter: Sitter,
    *,
    base: Callable[[], OpenedModel],
    sampling: DrawingConfig,
    counts: Counts,
    out: Path,
    identity: str,
) -> Material:
    """Photos and pictures, which are made where they are not there.

    Args:
        model: the run's.
        sitter: its subject.
        base: opens the model that the run began with.
        sampling: how both draw.
        counts: how many.
        out: folder for them.
        identity: what tells the weights of a run from others of its name.
    """
    after = groups_of(model, sitter, sampling=sampling, counts=counts, out=out, identity=identity, base=None)
    known = {"fingerprint": model.pipe.components.fingerprint}
    before = partial(draw, base(), within=out, about=known, sampling=sampling, counts=counts)
    subject, of_class = after["subject"], after["class"]
    of_subject = before([group.text for group in subject], name="base")
    (without,) = before([group.text for group in of_class], name="base-class", each=counts.of_class)
    groups: dict[Kind, list[Group]] = {
        "subject": [group._replace(before=pictures) for group, pictures in zip(subject, of_subject)],
        "class": [group._replace(before=without) for group in of_class],
    }
    return Material(photos=[np.asarray(photo.image()) for photo in sitter.photos], groups=groups)
