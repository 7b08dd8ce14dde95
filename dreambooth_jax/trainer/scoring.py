# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sample pictures are measured between steps, with the towers of ``evaluate``."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.config.scores import VAL_LOSS, measured_scores
from dreambooth_jax.config.towers import EvaluateConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.grid_scores import GridSubject, grid_scores
from dreambooth_jax.evaluation.open_towers import for_model, open_towers
from dreambooth_jax.evaluation.scores import Kind, Towers
from dreambooth_jax.prepare.photos import read_photos, subject_of
from dreambooth_jax.prompts.named import expanded
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.grids import Grids, Rows
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.score_history import ScoreHistory
from dreambooth_jax.training.state import TrainState

log = logging.getLogger(__name__)

T = TypeVar("T")
Measure = Callable[[Rows], dict[str, float]]
OpenTowers = Callable[[EvaluateConfig, str], Towers]
"""(where weights are, path of the model) -> towers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """The measurements of a run.

    Attributes:
        training: the run.
        grids: its pictures.
        measure: pictures -> scores; on process 0, which alone draws.
        names: of all scores.
        every: steps between two; 0 measures nothing.
        history: of all so far.
        of: whom the log calls it by; may be empty.
    """

    training: Training
    grids: Grids
    measure: Measure
    names: tuple[str, ...]
    every: int
    history: ScoreHistory
    of: str

    def is_due(self, step: int) -> bool:
        """Every so many steps, and at the ends."""
        return bool(self.every) and (step % self.every == 0 or step == self.training.setup.last_step)

    def run(self, step: int, state: TrainState, recorder: Recorder) -> None:
        """Measure where it is due. All processes call it, and all know the scores.

        Raises:
            InputError: if the pictures cannot be measured.
        """
        if not self.is_due(step) or any(at == step for at, _ in self.history.scores):
            return
        scores = self._shared(self.grids.rows(step, self.training, state))
        self.history.scores.append((step, scores))
        recorder.say(step, {f"scores/{name}": value for name, value in scores.items()})
        if distributed.is_main():
            said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            log.info("%sscores at step %d: %s", f"{self.of}: " if self.of else "", step, said or "none")

    def _shared(self, rows: Rows | None) -> dict[str, float]:
        """Of process 0, on all."""
        nothing: dict[str, float] = {}
        found = on_main(lambda: self.measure(rows) if rows is not None else nothing, otherwise=nothing)
        row = distributed.gather(np.array([found.get(name, np.nan) for name in self.names], np.float32))[0]
        return {name: float(value) for name, value in zip(self.names, row) if not np.isnan(value)}

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, so that a resumed run knows what was measured."""
        return {"scores": [[step, dict(scores)] for step, scores in self.history.scores]} if self.every else {}


def on_main(action: Callable[[], T], *, otherwise: T) -> T:
    """What process 0 finds, and something else on the others; what is wrong there is wrong on all.

    Raises:
        InputError: on all processes, if there is one on process 0.
    """
    found, wrong = otherwise, ""
    try:
        found = action() if distributed.is_main() else otherwise
    except InputError as error:
        wrong = str(error)
    (wrong,) = distributed.said_anywhere([wrong])
    if wrong:
        raise InputError(wrong)
    return found


def opened(settings: EvaluateConfig, model: str) -> Towers:
    """The towers of a run; none on processes that draw nothing. All processes call it."""
    target = Target.here()
    return on_main(lambda: for_model(open_towers(settings, target), model), otherwise=Towers())


def scoring_of(
    config: Config,
    training: Training,
    grids: Grids,
    *,
    meta: Mapping[str, Any],
    towers: OpenTowers = opened,
    of: str = "",
) -> Scoring:
    """The measurements that a run's settings ask for. Towers are opened here, once.

    Args:
        config: of the run.
        training: the run.
        grids: its pictures.
        meta: of the checkpoint that it goes on from, or empty.
        towers: opens them.
        of: whom the log calls it by; may be empty.

    Raises:
        InputError: if a tower is not what it should be.
    """
    every = config.evaluate.every
    found = towers(config.evaluate, config.model.path) if every else Towers()
    nobody: list[GridSubject] = []
    subjects = on_main(lambda: list(_subjects(config, grids)), otherwise=nobody) if every else nobody
    return Scoring(
        training=training,
        grids=grids,
        measure=lambda rows: grid_scores(found, subjects, rows),
        names=tuple(name for name in measured_scores(config) if name != VAL_LOSS),
        every=every,
        history=ScoreHistory(scores=[(int(step), dict(scores)) for step, scores in meta.get("scores", [])]),
        of=of,
    )


def _subjects(config: Config, grids: Grids) -> Iterator[GridSubject]:
    """The subjects, and which rows of a grid are theirs."""
    samples, place = config.samples, {prompt: row for row, prompt in enumerate(grids.settings.prompts)}
    kinds: dict[Kind, tuple[str, ...]] = {"subject": samples.prompts, "class": samples.class_prompts}
    data = replace(config.data, resolution=8)  # however small they are
    for concept in concepts_of(config):
        words, syntax = subject_of(concept), samples.prompt_syntax
        photos = read_photos(str(concept.instance_images), prompt="a {class_noun}", concept=concept, data=data)
        yield GridSubject(
            photos=[np.asarray(photo.image()) for photo in photos],
            rows={
                kind: [
                    (place[words.fill(one, syntax=syntax)], words.without_identifier(one, syntax=syntax))
                    for one in expanded(templates)
                ]
                for kind, templates in kinds.items()
            },
        )
