# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking what photos are like before anything is trained: what the doctor would say of them, and what training sees."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax.app.requests.captions import apart
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.uploads import preview, read_all
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.doctor.finding import Finding
from dreambooth_jax.doctor.of_photos import all_alike, blurred, centred, tiny, twins
from dreambooth_jax.doctor.patient import Patient, Photo
from dreambooth_jax.doctor.photo_facts import facts
from dreambooth_jax.doctor.regimen import regimen_of

LOOKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (twins, all_alike, tiny, blurred, centred)
"""What pixels alone tell; all of it takes a fraction of a second."""


class Seen(NamedTuple):
    """Photos as they are found.

    Attributes:
        pictures: what training sees of each, reduced.
        doubts: what speaks against them, one line each; none if nothing does.
    """

    pictures: list[UInt8[np.ndarray, "h w 3"]]
    doubts: list[str]


def look_over(desk: Desk, sent: Sequence[str | Path], *, config: str) -> Seen:
    """Look at photos as the training of some settings would.

    Args:
        desk: that is asked.
        sent: photos, and captions of them, where the server has put them.
        config: one of those that can be trained.

    Raises:
        InputError: if there is none, or too many, or one is too large, damaged or no picture.
    """
    desk.check_offered(config)
    settings = desk.settings(config)
    pictures = read_all(apart(sent)[0], desk.limits.photos)
    side = min(settings.data.size)
    photos = [
        Photo(
            name=f"photo {number}",
            height=picture.height,
            width=picture.width,
            facts=facts(np.asarray(picture), side=side),
        )
        for number, picture in enumerate(pictures, 1)
    ]
    (concept, *_) = concepts_of(settings)
    patient = Patient(
        concept=concept,
        regimen=regimen_of(settings, prior=concept.weight),
        recipe=None,
        steps=None,
        side=side,
        crop=settings.data.crop,
        photos=photos,
    )
    found = [finding for looks in LOOKS for finding in looks(patient)] if len(photos) > 1 else list(tiny(patient))
    return Seen([preview(picture, size=settings.data.size) for picture in pictures], [_line(one) for one in found])


def _line(finding: Finding) -> str:
    """What is wrong, why one thinks so, and the way out, without names of settings that a page does not show."""
    change = finding.change.rpartition("instance_images: ")[2]
    return f"{finding.what}: {'; '.join(finding.evidence)} - {change}"
