# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Scores of a sample grid, by the measures of ``evaluate``: DINO of its pictures, CLIP-T, ..., a number each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax.evaluation.scores import MEASURES, Group, Kind, Towers, Values
from dreambooth_jax.evaluation.towers import Picture

Pictures = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True, kw_only=True)
class GridSubject:
    """Whom some rows of a grid show.

    Attributes:
        photos: real ones.
        rows: of each kind, (number of the row, its prompt without the identifier).
    """

    photos: Sequence[Picture]
    rows: Mapping[Kind, Sequence[tuple[int, str]]]


def key_of(measure: str) -> str:
    """What a measure is called where names have no blanks: ``clip_t`` of CLIP-T."""
    return measure.lower().replace("-", "_").replace(" ", "_")


def grid_scores(towers: Towers, subjects: Sequence[GridSubject], grid: Sequence[Pictures]) -> dict[str, float]:
    """Of each measure the mean over subjects, of the mean over prompts, of the mean over pictures.

    Args:
        towers: what to measure with.
        subjects: who the grid is of.
        grid: pictures of each prompt.

    Returns:
        Key of a measure -> number; what has no value is not there.
    """
    found = {}
    for measure in MEASURES:
        tower = getattr(towers, measure.tower)
        means = []
        for subject in subjects if tower else ():
            groups = [Group(text, text, list(grid[row])) for row, text in subject.rows.get(measure.kind, ())]
            of_prompts = [_mean(one) for one in measure.values(tower, groups, subject.photos)] if groups else []
            means.append(_mean(of_prompts))
        if (mean := _mean(means)) is not None:
            found[key_of(measure.name)] = mean
    return found


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
