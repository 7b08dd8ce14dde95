# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All measures of a personalised model, as a table: what each is of, which tower it needs, what is better.

A new measure is a function and a line in ``MEASURES``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from dreambooth_jax.evaluation.drawn_scenes import background_is_right, place_is_right
from dreambooth_jax.evaluation.judge import NOBODY, Judge, Verdicts
from dreambooth_jax.evaluation.measures import between, drifted, over_pairs, paired
from dreambooth_jax.evaluation.towers import ClipTower, DinoTower, LpipsTower, Picture

JUDGED = 64
"""Pixels of the side of what the judge has learnt from."""
Kind = Literal["subject", "class", "other"]
Values = list[float | None]
"""Of each picture, or each pair of pictures; None where there is nothing to be measured."""


class Group(NamedTuple):
    """Pictures of one prompt.

    Attributes:
        prompt: its template, which is the same for all subjects.
        text: the prompt without the identifier.
        pictures: each [h, w, 3] of uint8.
        before: the same of the model before it was trained.
    """

    prompt: str
    text: str
    pictures: Sequence[Picture]
    before: Sequence[Picture] = ()


@dataclass(frozen=True, kw_only=True)
class Material:
    """What one subject is measured by.

    Attributes:
        photos: real ones of the subject.
        groups: pictures of prompts with the identifier ("subject"), of the class prompt ("class"), and of prompts that
            have nothing to do with the subject ("other").
    """

    photos: Sequence[Picture]
    groups: dict[Kind, list[Group]]


@dataclass(frozen=True, kw_only=True)
class Towers:
    """What pictures are measured with; None where there are no weights."""

    dino: DinoTower | None = None
    clip: ClipTower | None = None
    lpips: LpipsTower | None = None
    judge: Judge | None = None


class Measure(NamedTuple):
    """One number of a personalised model.

    Attributes:
        name: as papers have it.
        tower: field of ``Towers`` that it needs.
        kind: of groups that it is of.
        better: higher or lower.
        values: (tower, groups, photos) -> values of each group.
        about: what it is, in a line.
        of_pairs: values are of pairs of pictures, which are not independent of each other.
    """

    name: str
    tower: Literal["dino", "clip", "lpips", "judge"]
    kind: Kind
    better: Literal["higher", "lower"]
    values: Callable[[Any, Sequence[Group], Sequence[Picture]], list[Values]]
    about: str
    of_pairs: bool = False


def _split(values: Iterable[float], groups: Sequence[Group]) -> list[Values]:
    """Values of all pictures -> of each group's."""
    found = [float(value) for value in values]
    ends = list(accumulate(len(group.pictures) for group in groups))
    return [list[float | None](found[start:end]) for start, end in zip([0, *ends], ends)]


def _all(groups: Sequence[Group]) -> list[Picture]:
    return [picture for group in groups for picture in group.pictures]


def likeness(tower: DinoTower | ClipTower, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """Of each picture the mean cosine with all photos."""
    return _split(between(tower.pictures(_all(groups)), tower.pictures(photos)), groups)


def faithfulness(tower: ClipTower, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """Of each picture the cosine with its prompt without the identifier."""
    del photos
    texts = np.repeat(tower.texts([group.text for group in groups]), [len(group.pictures) for group in groups], axis=0)
    return _split(paired(tower.pictures(_all(groups)), texts), groups)


def variety(tower: LpipsTower, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """LPIPS of all pairs of a group's pictures of one size."""
    del photos
    found: list[Values] = []
    for group in groups:
        alike = len({picture.shape for picture in group.pictures}) == 1 and len(group.pictures) > 1
        pairs = over_pairs(tower, np.stack(group.pictures)) if alike else np.zeros(0)
        found.append([float(value) for value in pairs])
    return found


def drift(tower: DinoTower, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """Of each picture how far it has gone from what the model drew before."""
    del photos
    if not all(len(group.before) == len(group.pictures) for group in groups):
        return [[] for _ in groups]
    before = [picture for group in groups for picture in group.before]
    return _split(drifted(tower.pictures(before), tower.pictures(_all(groups))), groups)


def judged_likeness(judge: Judge, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """As :func:`likeness`, by the judge's features."""
    real = judged(judge, photos).features
    return _split(between(judged(judge, _all(groups)).features, real), groups)


def recognised(judge: Judge, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """Of each picture whether the judge takes it for whom it takes most photos for; nothing if that is nobody."""
    ((who, _),) = Counter(judged(judge, photos).subjects).most_common(1)
    if who == NOBODY:
        return [[] for _ in groups]
    return _split([said == who for said in judged(judge, _all(groups)).subjects], groups)


def scene(judge: Judge, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """Of each picture the share that is right of background and place, where the prompt says them."""
    del judge, photos

    def right(picture: Picture, text: str) -> float | None:
        verdicts = [is_right(picture, text) for is_right in (background_is_right, place_is_right)]
        said = [verdict for verdict in verdicts if verdict is not None]
        return float(np.mean(said)) if said else None

    return [[right(picture, group.text) for picture in group.pictures] for group in groups]


def judged_variety(judge: Judge, groups: Sequence[Group], photos: Sequence[Picture]) -> list[Values]:
    """Cosine distance of all pairs of a group's pictures, by the judge's features."""
    del photos

    def distances(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
        return 1 - paired(x, y)

    found: list[Values] = []
    for group in groups:
        several = len(group.pictures) > 1
        pairs = over_pairs(distances, judged(judge, group.pictures).features) if several else np.zeros(0)
        found.append([float(value) for value in pairs])
    return found


def judged(judge: Judge, pictures: Sequence[Picture]) -> Verdicts:
    """What a judge says of pictures. Those of another size than it knows are resized."""
    size = (JUDGED, JUDGED)
    same = [np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)) for picture in pictures]
    return judge(np.stack(same))


MEASURES: tuple[Measure, ...] = (
    Measure("DINO", "dino", "subject", "higher", likeness, "likeness: mean cosine with the photos"),
    Measure("CLIP-I", "clip", "subject", "higher", likeness, "likeness: mean cosine with the photos"),
    Measure("CLIP-T", "clip", "subject", "higher", faithfulness, "prompt: cosine with it, the identifier taken out"),
    Measure("DIV", "lpips", "subject", "higher", variety, "variety: mean LPIPS of pairs of one prompt", True),
    Measure("PRES", "dino", "class", "lower", likeness, "leak: mean cosine of the class prompt with the photos"),
    Measure("class DIV", "lpips", "class", "higher", variety, "variety: mean LPIPS of pairs of the class prompt", True),
    Measure("drift", "dino", "other", "lower", drift, "change of pictures of other prompts: (1 - cosine) / 2"),
    Measure("recognised", "judge", "subject", "higher", recognised, "likeness: share taken for the subject"),
    Measure("fidelity", "judge", "subject", "higher", judged_likeness, "likeness: the judge in DINO's place"),
    Measure("scene", "judge", "subject", "higher", scene, "prompt: share of backgrounds and places that are right"),
    Measure("leaked", "judge", "class", "lower", recognised, "leak: share of the class taken for the subject"),
    Measure("class fidelity", "judge", "class", "lower", judged_likeness, "leak: the judge in PRES's place"),
    Measure(
        "diversity",
        "judge",
        "class",
        "higher",
        judged_variety,
        "variety of the class prompt: cosine distance of pairs",
        True,
    ),
)
