# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The best step so far, by a product of scores.

    value = Π f(score)      f(x) = x where higher is better, 1 - x where lower is, 1/x of the validation loss

A product asks for all of its factors at once: likeness that costs the prompt is worth nothing. Factors below 0 count as
0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth_jax.config.scores import SCORES, VAL_LOSS


@dataclass(kw_only=True)
class Best:
    """The best step so far.

    Attributes:
        factors: names of the scores; without any, no step is the best.
        step: the first of the best; -1 before there is one.
        value: of that step.
    """

    factors: tuple[str, ...]
    step: int = -1
    value: float = -math.inf

    def look(self, step: int, scores: Mapping[str, float]) -> None:
        """Compare a step with the best so far. A step of which a factor is not known is none."""
        if not self.factors or any(name not in scores for name in self.factors):
            return
        value = math.prod(_factor(name, scores[name]) for name in self.factors)
        if value > self.value:
            self.step, self.value = step, value

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        if not self.factors:
            return {}
        return {"best": {"of": list(self.factors), "step": self.step, "value": self.value if self.step >= 0 else None}}


def best_from(factors: tuple[str, ...], meta: Mapping[str, Any]) -> Best:
    """The best so far of a run that goes on. Another product begins anew: what was best by it may not have been kept.

    Args:
        factors: names of the scores.
        meta: of the checkpoint that it goes on from, or empty.
    """
    known = meta.get("best")
    found = Best(factors=factors)
    if known is not None:
        if known["of"] == list(factors) and known["value"] is not None:
            found.step, found.value = int(known["step"]), float(known["value"])
    elif factors == (VAL_LOSS,) and meta.get("config", {}).get("checkpoint", {}).get("keep_best"):
        for step, loss in meta.get("validation", []):  # of a run of before, which kept it by this alone
            if step:
                found.look(int(step), {VAL_LOSS: float(loss)})
    return found


def _factor(name: str, score: float) -> float:
    if name == VAL_LOSS:
        return 1 / score if score > 0 else math.inf
    return max(score if SCORES[name].better == "higher" else 1 - score, 0.0)
