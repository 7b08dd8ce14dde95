# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Scores of a run so far, and when they say that it overfits: ever more like the photos, ever less like the prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dreambooth_jax.training.validation import PATIENCE

FALLEN = 0.1
"""Share of its best value that prompt fidelity must have lost: grids are small, and their scores go up and down."""
PAIRS = (("dino", "clip_t"), ("clip_i", "clip_t"), ("fidelity", "scene"))
"""(subject fidelity, prompt fidelity)."""


@dataclass
class ScoreHistory:
    """Scores of a run.

    Attributes:
        scores: (step, name -> score), by rising steps.
        warned: has it said that the run overfits?
    """

    scores: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    warned: bool = False

    def at(self, step: int) -> Mapping[str, float]:
        """Of a step; empty where nothing was measured."""
        return next((scores for at, scores in reversed(self.scores) if at == step), {})

    def overfits(self) -> str | None:
        """A warning, once, where the prompt fidelity of the last measurements is each time at least a tenth below the
        best one before them, and the subject fidelity above that step's."""
        for names in PAIRS if not self.warned else ():
            if found := self._overfits(*names):
                self.warned = True
                return found
        return None

    def _overfits(self, fidelity: str, prompt: str) -> str | None:
        known = [(step, one[fidelity], one[prompt]) for step, one in self.scores if fidelity in one and prompt in one]
        if len(known) <= PATIENCE:
            return None
        step, likeness, best = max(known[:-PATIENCE], key=lambda one: one[2])
        if not all(at_prompt <= (1 - FALLEN) * best and like > likeness for _, like, at_prompt in known[-PATIENCE:]):
            return None
        now, like, at_prompt = known[-1]
        return (
            f"{prompt} was {best:.3g} at step {step} and is {at_prompt:.3g} at step {now}, while {fidelity} rose from "
            f"{likeness:.3g} to {like:.3g}: the run overfits its photos; train fewer steps, with a lower "
            "optimizer.learning_rate, or with prior.weight=1"
        )
