# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What members are compared by: numbers read from a run's folder.

A new score is a function and a line in ``SCORES``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from dreambooth_jax.config import scores
from dreambooth_jax.sweeps.status import metrics_of

LAST = 0.1
"""Share of the lines of metrics that the training loss is a mean of: one step alone says little."""


class Score(NamedTuple):
    """A number of a member.

    Attributes:
        of: a run's folder -> the number; None where it has none.
        better: higher or lower.
    """

    of: Callable[[Path], float | None]
    better: Literal["higher", "lower"] = "lower"


def newest(name: str, folder: Path) -> float | None:
    """What a run said last under a name of its metrics; None where it never did."""
    return next((line[name] for line in reversed(metrics_of(folder)) if name in line), None)


def training_loss(folder: Path) -> float | None:
    """Mean of the last tenth of the run; None before the first line."""
    losses = [line["loss"] for line in metrics_of(folder) if "loss" in line]
    last = losses[-max(1, round(LAST * len(losses))) :]
    return sum(last) / len(last) if last else None


SCORES: Mapping[str, Score] = {
    "validation_loss": Score(partial(newest, "validation_loss")),
    **{
        name: Score(partial(newest, f"scores/{name}"), score.better)
        for name, score in scores.SCORES.items()
        if name != scores.VAL_LOSS
    },
    "training_loss": Score(training_loss),
}
"""By name; the first one that all finished members have says which is better."""


def scores_of(folder: Path) -> dict[str, float]:
    """All that a member has."""
    found = {name: score.of(folder) for name, score in SCORES.items()}
    return {name: value for name, value in found.items() if value is not None}
