# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What was measured, and its means with intervals over subjects and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from dreambooth_jax.evaluation.bootstrap import Estimate, estimate
from dreambooth_jax.evaluation.score_file import Scores
from dreambooth_jax.evaluation.scores import Group, Kind, Measure, Values
from dreambooth_jax.evaluation.towers import Picture


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One subject.

    Attributes:
        name: of it.
        photos, groups: what was measured.
        scores: measure -> prompt -> values.
    """

    name: str
    photos: Sequence[Picture] = field(repr=False)
    groups: dict[Kind, list[Group]] = field(repr=False)
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Column:
    """One source: a run, several of one method, a model, or pictures."""

    name: str
    subjects: tuple[Measured, ...]

    def estimate(self, measure: Measure) -> Estimate | None:
        """Mean and interval of a measure; None where nothing was measured."""
        table = table_of([one.scores.get(measure.name, {}) for one in self.subjects], of_pairs=measure.of_pairs)
        return estimate(table) if np.isfinite(table).any() else None


def table_of(subjects: Sequence[Mapping[str, Values]], *, of_pairs: bool = False) -> Float[np.ndarray, "subjects n"]:
    """The mean over the pictures of each subject and prompt; where all have one prompt alone, the value of each
    picture, unless values are of pairs. NaN where there is none."""
    prompts = list(dict.fromkeys(prompt for one in subjects for prompt in one))
    if len(prompts) == 1 and not of_pairs:
        rows = [[_mean([value]) for value in one.get(prompts[0], ())] for one in subjects]
    else:
        rows = [[_mean(one.get(prompt, ())) for prompt in prompts] for one in subjects]
    table = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan
