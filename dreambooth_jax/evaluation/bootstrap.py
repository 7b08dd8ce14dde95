# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How sure a mean over subjects and prompts is: the bootstrap (Efron 1979) of crossed units.

All subjects are asked for in the same prompts, so that neither scores of one subject nor scores of one prompt are
independent of each other. Both are drawn again, each with replacement and independently of the other (Owen, The
pigeonhole bootstrap, 2007): the interval holds for other subjects and other prompts of the same kinds. Where there is
one subject alone, it holds for this one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Estimate(NamedTuple):
    """A mean and where it lies.

    Attributes:
        mean: of all scores that there are.
        low, high: the interval; of one score alone, which says nothing of that, both are the mean.
        scores: how many.
    """

    mean: float
    low: float
    high: float
    scores: int


def estimate(
    scores: Float[np.ndarray, "subjects prompts"], *, level: float = 0.95, draws: int = 4000, seed: int = 0
) -> Estimate:
    """The mean of a table, and its percentile interval.

    Args:
        scores: one for each subject and prompt, each the mean over its pictures; NaN where there is none.
        level: share of means of redrawn tables that lie within.
        draws: redrawn tables.
        seed: of the draws.
    """
    there = np.isfinite(scores)
    r = np.random.default_rng(seed)
    counts = [r.multinomial(side, np.full(side, 1 / side), size=draws).astype(float) for side in scores.shape]

    def total(values: np.ndarray) -> np.ndarray:
        return np.sum((counts[0] @ values) * counts[1], axis=1)

    with np.errstate(invalid="ignore"):  # a table may have nothing where there was something
        means = total(np.where(there, scores, 0.0)) / total(there.astype(float))
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(scores[there].mean()), float(low), float(high), int(there.sum()))
