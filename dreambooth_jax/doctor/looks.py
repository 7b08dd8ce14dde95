# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a personalised model draws, as a few numbers beside its photos and beside what it drew before.

An *eye* is the tower that knows pictures best: DINO, else CLIP, else the judge of the embedded model. Likeness is the
cosine of the features of two pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dreambooth_jax.doctor.nouns import Naming, named_by_clip, named_by_judge
from dreambooth_jax.doctor.photo_facts import facts
from dreambooth_jax.evaluation.measures import unit
from dreambooth_jax.evaluation.scores import Group, Material, Towers, judged, scene
from dreambooth_jax.evaluation.towers import ClipTower, Picture

LEAST = 0.05
"""Difference of likenesses that says something."""


class Eye(NamedTuple):
    """What pictures are looked at with.

    Attributes:
        name: of the tower.
        features: of pictures, of length 1.
        obedience: how well pictures keep to the prompts of their groups: 0 where prompts do not matter. None if it
            cannot read.
        naming: how a noun fits photos; None if it knows no nouns.
    """

    name: str
    features: Callable[[Sequence[Picture]], Float[np.ndarray, "n d"]]
    obedience: Callable[[Sequence[Group]], float] | None = None
    naming: Callable[[Sequence[Picture], str], Naming | None] | None = None


def eye_of(towers: Towers) -> Eye | None:
    """The best that there is; None if there is none."""
    dino, clip, judge = towers.dino, towers.clip, towers.judge
    if tower := dino or clip:
        return Eye(
            "DINO" if dino else "CLIP",
            lambda pictures: unit(tower.pictures(pictures)),
            obedience=partial(_margin, clip) if clip else None,
            naming=partial(named_by_clip, clip) if clip else None,
        )
    if judge is None:
        return None
    return Eye(
        "the judge",
        lambda pictures: unit(judged(judge, pictures).features),
        obedience=lambda groups: _mean(scene(judge, groups, ())),
        naming=partial(named_by_judge, judge),
    )


def _mean(values: Sequence[Sequence[float | None]]) -> float:
    said = [value for of_one in values for value in of_one if value is not None]
    return float(np.mean(said)) if said else float("nan")


def _margin(clip: ClipTower, groups: Sequence[Group]) -> float:
    """Mean cosine of pictures with their own prompt, less that with the prompts of the others."""
    if len(groups) < 2:
        return float("nan")
    own = np.repeat(np.arange(len(groups)), [len(group.pictures) for group in groups])
    cosines = unit(clip.pictures(_after(groups))) @ unit(clip.texts([group.text for group in groups])).T
    right = cosines[np.arange(len(own)), own]
    others = (cosines.sum(1) - right) / (len(groups) - 1)
    return float(np.mean(right - others))


@dataclass(frozen=True, kw_only=True)
class Looks:
    """All likenesses are to the photos, means unless said otherwise. NaN is what there is nothing to be measured of.

    Attributes:
        eye: what was looked with.
        photos: of each to the others.
        nearest_photo: of each to the other that is nearest to it, the median.
        subject: of pictures of the subject.
        nearest: of each of these to the photo that is nearest to it, the median.
        subject_before: of pictures of the same prompts without the identifier, before training.
        class_after, class_before: of pictures of the class prompt.
        class_images: of pictures of the class that it was trained with.
        obeyed, obeyed_before: how well pictures of the subject keep to their prompts, and those before.
        grain: finest detail of pictures of the subject, as a share of their contrast; the median.
        usual_grain: the larger of that of photos and of pictures before training.
        contrast: of pictures of the subject, as a share of that of those before training; the median.
        naming: how the class noun fits the photos; None where nobody can tell.
    """

    eye: str
    photos: float
    nearest_photo: float
    subject: float
    nearest: float
    subject_before: float
    class_after: float
    class_before: float
    class_images: float
    obeyed: float
    obeyed_before: float
    grain: float
    usual_grain: float
    contrast: float
    naming: Naming | None = None

    @property
    def learnt(self) -> float:
        """How far pictures of the subject have come from what the class looked like (0) to the photos (1)."""
        return self.share(self.subject, self.subject_before)

    @property
    def leaked(self) -> float:
        """How far pictures of the class have come to the photos."""
        return self.share(self.class_after)

    @property
    def ceiling(self) -> float:
        """As like the photos as a picture can be: as they are to each other, or as a picture is to itself."""
        return 1.0 if np.isnan(self.photos) else self.photos

    def share(self, value: float, before: float | None = None) -> float:
        """How far a likeness is from that before training (by default of the class prompt) to that of photos; NaN
        where these are too close for the tower to tell."""
        none = self.class_before if before is None else before
        return (value - none) / (self.ceiling - none) if self.ceiling - none > LEAST else float("nan")


def look(material: Material, eye: Eye, *, noun: str, class_images: Sequence[Picture] = ()) -> Looks:
    """The numbers.

    Args:
        material: photos, and pictures of the subject and of the class, each with what was drawn before.
        eye: what to look with.
        noun: what the photos' class is called.
        class_images: some that it was trained with.
    """
    subject, of_class = material.groups["subject"], material.groups["class"]
    photos, drawn = eye.features(material.photos), eye.features(_after(subject))
    among = photos @ photos.T
    np.fill_diagonal(among, np.nan)
    several = len(photos) > 1
    before = [group._replace(pictures=group.before) for group in subject]
    side = min(min(picture.shape[:2]) for picture in _after(subject))

    def like(pictures: Sequence[Picture]) -> float:
        return _likeness(eye.features(pictures), photos) if len(pictures) else float("nan")

    return Looks(
        eye=eye.name,
        photos=float(np.nanmean(among)) if several else float("nan"),
        nearest_photo=float(np.median(np.nanmax(among, axis=1))) if several else float("nan"),
        subject=_likeness(drawn, photos),
        nearest=float(np.median((drawn @ photos.T).max(1))),
        subject_before=like(_after(before)),
        class_after=like(_after(of_class)),
        class_before=like([picture for group in of_class for picture in group.before]),
        class_images=like(class_images),
        obeyed=eye.obedience(subject) if eye.obedience else float("nan"),
        obeyed_before=eye.obedience(before) if eye.obedience else float("nan"),
        grain=_grain(_after(subject), side),
        usual_grain=max(_grain(_after(before), side), _grain(material.photos, side)),
        contrast=_contrast(_after(subject)) / max(_contrast(_after(before)), 1e-3),
        naming=eye.naming(material.photos, noun) if eye.naming else None,
    )


def _likeness(ours: Float[np.ndarray, "n d"], photos: Float[np.ndarray, "m d"]) -> float:
    return float(np.mean(ours @ photos.T))


def _after(groups: Sequence[Group]) -> list[Picture]:
    return [picture for group in groups for picture in group.pictures]


def _grain(pictures: Sequence[Picture], side: int) -> float:
    return float(np.median([facts(picture, side=side).sharpness for picture in pictures]))


def _contrast(pictures: Sequence[Picture]) -> float:
    return float(np.median([picture.std() for picture in pictures]))
