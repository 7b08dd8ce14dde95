# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How good a run is between its steps: validation loss, scores of its pictures, and which step is the best so far."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax import distributed
from dreambooth_jax.config import Config
from dreambooth_jax.config.scores import factors_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.trainer.grids import Grids
from dreambooth_jax.trainer.scoring import OpenTowers, Scoring, opened, scoring_of
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.trainer.validating import Validation, validation_of
from dreambooth_jax.training.best import Best, best_from
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.state import TrainState

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """What is known of a run's quality.

    Attributes:
        validation: its loss on pictures that it does not train on.
        scoring: the scores of its pictures.
        best: the best step so far.
    """

    validation: Validation
    scoring: Scoring
    best: Best

    def is_due(self, step: int) -> bool:
        """Is anything measured after so many steps?"""
        return self.validation.is_due(step) or self.scoring.is_due(step)

    def is_best(self, step: int) -> bool:
        """Is the checkpoint of this step to be kept as the best so far?"""
        return 0 < step == self.best.step

    def best_step(self) -> int:
        """The step whose checkpoint is kept; -1 for none."""
        return self.best.step

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return self.validation.meta | self.scoring.meta | self.best.meta

    def observe(self, step: int, values: Mapping[str, float]) -> None:
        """A listener, of training losses."""
        self.validation.observe(step, values)

    def run(self, step: int, state: TrainState, recorder: Recorder) -> None:
        """Measure what is due.

        Raises:
            InputError: before the first step, if a score that says which step is best has no value.
        """
        if not self.is_due(step):
            return
        self.validation.run(step, state, recorder)
        self.scoring.run(step, state, recorder)
        scores = {**self.scoring.history.at(step), **self.validation.at(step)}
        if not step:
            self._check(scores)
        elif step > self.best.step:
            self.best.look(step, scores)
        self._warn()

    def _check(self, scores: Mapping[str, float]) -> None:
        missing = [name for name in self.best.factors if name not in scores]
        if missing:
            raise InputError(
                f"checkpoint.keep_best={'*'.join(self.best.factors)}, but {missing[0]} has no value for these photos "
                f"and prompts; there are {', '.join(scores) or 'none'}"
            )

    def _warn(self) -> None:
        warnings = [self.validation.history.overfits(), self.scoring.history.overfits()]
        kept = f"; the checkpoint of step {self.best.step} is kept (--step best)" if self.best.step > 0 else ""
        for warning in warnings if distributed.is_main() else ():
            if warning:
                log.warning("%s%s%s", f"{self.scoring.of}: " if self.scoring.of else "", warning, kept)


def quality_of(
    config: Config,
    training: Training,
    grids: Grids,
    *,
    meta: Mapping[str, Any],
    metrics: Path,
    towers: OpenTowers = opened,
    of: str = "",
) -> Quality:
    """What a run's settings ask to be measured.

    Args:
        config: of the run.
        training: the run.
        grids: its pictures.
        meta: of the checkpoint that it goes on from, or empty.
        metrics: its file of metrics, of which the training losses so far are read.
        towers: opens networks to measure with.
        of: whom the log calls it by; may be empty.

    Raises:
        InputError: if a tower is not what it should be.
    """
    return Quality(
        validation=validation_of(config, training, meta=meta, metrics=metrics),
        scoring=scoring_of(config, training, grids, meta=meta, towers=towers, of=of),
        best=best_from(factors_of(config.checkpoint.keep_best), meta),
    )
