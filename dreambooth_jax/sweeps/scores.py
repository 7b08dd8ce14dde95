# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What members are compared by: numbers read from a run's folder.

A new score is a function and a line in ``SCORES``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from dreambooth_jax.sweeps.status import metrics_of

LAST = 0.1
"""Share of the lines of metrics that the training loss is a mean of: one step alone says little."""


def validation_loss(folder: Path) -> float | None:
    """Of the last validation; None where there was none."""
    return next((line["validation_loss"] for line in reversed(metrics_of(folder)) if "validation_loss" in line), None)


def training_loss(folder: Path) -> float | None:
    """Mean of the last tenth of the run; None before the first line."""
    losses = [line["loss"] for line in metrics_of(folder) if "loss" in line]
    last = losses[-max(1, round(LAST * len(losses))) :]
    return sum(last) / len(last) if last else None


SCORES: Mapping[str, Callable[[Path], float | None]] = {
    "validation_loss": validation_loss,
    "training_loss": training_loss,
}
"""Name -> function of a run's folder. The first one that all finished members have says which is better: lower is."""


def scores_of(folder: Path) -> dict[str, float]:
    """All that a member has."""
    found = {name: score(folder) for name, score in SCORES.items()}
    return {name: value for name, value in found.items() if value is not None}
