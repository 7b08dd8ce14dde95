# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which claims hold.

A claim that A has more of something than B is looked at subject by subject: of the differences A − B of n subjects,
each the mean over the seeds that both have (seeds of one subject are no independent witnesses), Student's t gives the
interval that the true mean lies in with 95 % confidence. The claim holds if that is above zero, does not hold if it is
below, and is left open if zero lies in it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from .conditions import Claim
from .figures import Row

_ENOUGH = 3
"""Subjects below which nothing is said of a claim."""


def concluded(claim: Claim, found: Mapping[str, Sequence[Row]]) -> str:
    """Three cells: what became of a claim."""
    difference, error, count = compare(claim, found)
    return f"**{verdict(difference, error)}** | {claim.metric} {difference:+.3f} ± {error:.3f} | {count}"


def summary(rows: Sequence[Row], metric: str) -> tuple[float, float]:
    """(mean, standard deviation: of a sample)."""
    values = [row[metric] for row in rows]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def compare(claim: Claim, found: Mapping[str, Sequence[Row]]) -> tuple[float, float, int]:
    """(mean difference, half of its 95 % interval, subjects) over what both conditions have."""
    more, less = (
        {(row["subject"], row["seed"]): row[claim.metric] for row in found[name] if claim.metric in row}
        for name in (claim.more, claim.less)
    )
    differences: dict[str, list[float]] = {}
    for subject, seed in more.keys() & less.keys():
        differences.setdefault(subject, []).append(more[subject, seed] - less[subject, seed])
    return interval([float(np.mean(of_one)) for of_one in differences.values()])


def interval(values: Sequence[float]) -> tuple[float, float, int]:
    """(mean, half of its 95 % interval: infinite of fewer than three, how many there are)."""
    mean, count = float(np.mean(values)) if values else float("nan"), len(values)
    if count < _ENOUGH:
        return mean, float("inf"), count
    return mean, float(stats.sem(values) * stats.t.ppf(0.975, count - 1)), count


def verdict(difference: float, error: float) -> str:
    """Holds, does not hold, or neither can be said."""
    if not abs(difference) > error:
        return "Open"
    return "Holds" if difference > 0 else "Does not hold"
