# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Scores of a run between its steps: which there are, which a run measures, and what "best" may be made of."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from dreambooth_jax.config.setting import shown
from dreambooth_jax.errors import nearest

if TYPE_CHECKING:
    from dreambooth_jax.config.schema import Config

EMBEDDED = "embedded"
"""The model that a judge ships for."""
VAL_LOSS = "val_loss"


class Score(NamedTuple):
    """A number of a run at a step.

    Attributes:
        tower: that it needs; None for the validation loss.
        of: pictures of samples.prompts, or of samples.class_prompts.
        better: higher or lower.
        of_pairs: it needs two pictures of a prompt.
    """

    tower: Literal["dino", "clip", "lpips", "judge"] | None
    of: Literal["prompts", "class_prompts"] | None
    better: Literal["higher", "lower"]
    of_pairs: bool = False


SCORES: dict[str, Score] = {
    "dino": Score("dino", "prompts", "higher"),
    "clip_i": Score("clip", "prompts", "higher"),
    "clip_t": Score("clip", "prompts", "higher"),
    "div": Score("lpips", "prompts", "higher", True),
    "pres": Score("dino", "class_prompts", "lower"),
    "class_div": Score("lpips", "class_prompts", "higher", True),
    "recognised": Score("judge", "prompts", "higher"),
    "fidelity": Score("judge", "prompts", "higher"),
    "scene": Score("judge", "prompts", "higher"),
    "leaked": Score("judge", "class_prompts", "lower"),
    "class_fidelity": Score("judge", "class_prompts", "lower"),
    "diversity": Score("judge", "class_prompts", "higher", True),
    VAL_LOSS: Score(None, None, "lower"),
}


def factors_of(keep_best: bool | str) -> tuple[str, ...]:
    """Names of the scores whose product says which step is best; none where no step is to be kept."""
    if isinstance(keep_best, bool):
        return (VAL_LOSS,) if keep_best else ()
    return tuple(part.strip() for part in keep_best.split("*"))


def towers_of(config: "Config") -> set[str]:
    """Kinds of networks that a run's pictures are measured with."""
    found = {name for name in ("dino", "clip", "lpips", "judge") if getattr(config.evaluate, name)}
    return found | ({"judge"} if config.model.path == EMBEDDED else set())


def measured_scores(config: "Config") -> list[str]:
    """Names of the scores that a run's settings give it."""
    towers, samples = towers_of(config) if config.evaluate.every else set(), config.samples
    return [
        name
        for name, score in SCORES.items()
        if (
            config.validation.is_wanted
            if score.of is None
            else score.tower in towers and getattr(samples, score.of) and (samples.num_images > 1 or not score.of_pairs)
        )
    ]


def score_problems(config: "Config") -> Iterator[str]:
    """What cannot work, one line each."""
    every, known = config.evaluate.every, measured_scores(config)
    if every and not towers_of(config):
        yield (
            f"evaluate.every is {every}, but there is nothing to measure with: set evaluate.dino, evaluate.clip, "
            "evaluate.lpips or evaluate.judge"
        )
    elif every and not (config.samples.prompts or config.samples.class_prompts):
        yield "evaluate.every measures pictures of samples.prompts and samples.class_prompts, but both are empty"
    keep_best, factors = shown(config.checkpoint.keep_best), factors_of(config.checkpoint.keep_best)
    for name in factors:
        if name not in SCORES:
            names = f"{', '.join(SCORES)}{nearest(name, SCORES)}"
            yield f"checkpoint.keep_best is {keep_best}, but {shown(name)} is no score: there are {names}"
        elif name not in known:
            yield f"checkpoint.keep_best is {keep_best}, but {_way_to(name)}; this run measures {_listed(known)}"
    if config.export.weights == "best" and not factors:
        yield "export.weights is best, but nothing says what is best: set checkpoint.keep_best, such as dino*clip_t"


def _way_to(name: str) -> str:
    score = SCORES[name]
    if score.tower is None:
        return f"{name} needs a validation loss: set validation.holdout or validation.images"
    more = " and samples.num_images=2" if score.of_pairs else ""
    return f"{name} needs evaluate.every, evaluate.{score.tower}, samples.{score.of}{more}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
