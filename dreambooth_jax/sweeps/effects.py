# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What each value of a setting does to a score, all else equal.

Members that differ in one setting alone are a block: a randomised block design with the other settings' cells as
blocks. The effect of a value is the mean over blocks of its score less that of the setting's first value, and its 95 %
interval Student's t of these differences (paired t-test; Student, Biometrika 6, 1908).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Place = tuple[int, ...]
"""Number of a member's value on each axis."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Of one value of an axis.

    Attributes:
        count: members with the value that have a score.
        mean: of their scores.
        half_width: of the 95 % interval of the mean; None for fewer than two.
        blocks: of which the first value has a score, too.
        difference: from the first value, mean over blocks; None of the first value, and without blocks.
        difference_half_width: of its 95 % interval; None for fewer than two blocks.
    """

    count: int
    mean: float
    half_width: float | None
    blocks: int
    difference: float | None
    difference_half_width: float | None


def effects_of(scores: Mapping[Place, float], *, axis: int, values: int) -> list[Effect | None]:
    """The effect of each value of an axis; None of one that no member has a score of.

    Args:
        scores: of members, by their places; some may be missing.
        axis: number of the axis.
        values: how many it has.
    """

    def block(place: Place) -> Place:
        return place[:axis] + place[axis + 1 :]

    by_value = [{block(place): score for place, score in scores.items() if place[axis] == n} for n in range(values)]
    found: list[Effect | None] = []
    for n, own in enumerate(by_value):
        if not own:
            found.append(None)
            continue
        pairs = [score - by_value[0][at] for at, score in own.items() if at in by_value[0]] if n else []
        found.append(
            Effect(
                count=len(own),
                mean=float(np.mean(list(own.values()))),
                half_width=half_width(list(own.values())),
                blocks=len(pairs),
                difference=float(np.mean(pairs)) if pairs else None,
                difference_half_width=half_width(pairs),
            )
        )
    return found


def half_width(numbers: Sequence[float], *, level: float = 0.95) -> float | None:
    """Half of the width of Student's interval of a mean; None for fewer than two numbers."""
    n = len(numbers)
    if n < 2:
        return None
    return float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(numbers, ddof=1) / math.sqrt(n))
