# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All experiments but those of pairs, and what the founding documents claim of them.

The first is of the base as it is; those that ask what one thing does are at a higher learning rate, because what
harms prompts shows there.
"""

from dataclasses import replace
from typing import Any

from .conditions import (
    CAT,
    FAST,
    GRID,
    PAPER,
    TALK,
    WORDS,
    Claim,
    Condition,
    Experiment,
    Sampling,
    Training,
    of,
)
from .ways import WAYS


def _at_high_rate(name: str, *, instances: int = 5, words: str = WORDS, **settings: Any) -> Condition:
    """The same at the higher learning rate."""
    return of(name, instances=instances, words=words, **(_HIGH_RATE | settings))


_HIGH_RATE = {"optimizer__learning_rate": 1e-3}
_PROMPTS = {"plain": "{a_class}", "specific": "a flat {class_noun}"}

_RATES = {"low rate": {}, "high rate": _HIGH_RATE}
_STEPS = {"half the steps": {"train__steps": 200}, "all steps": {}}
_SAMPLINGS = (FAST, Sampling(15, 6.0), Sampling(25, 6.0))


def _class_prompts(trained: str, made: str) -> Condition:
    as_it_is = trained == made == "plain"
    words = {"prior__class_prompt": _PROMPTS[trained], "prior__class_images_prompt": _PROMPTS[made]}
    return _at_high_rate(_made(trained, made), **({} if as_it_is else words))


def _made(trained: str, made: str) -> str:
    return f"trained as {trained}, made as {made}"


def _grid(rate: str, steps: str, sampling: Sampling) -> Condition:
    name = f"{rate}, {steps}; {sampling.steps} at guidance {sampling.guidance_scale:g}"
    return replace(of(name, **_RATES[rate], **_STEPS[steps]), sampling=sampling)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        title="Before and after",
        conditions=(
            Condition(name="before", training=Training(trained=False)),
            of("after"),
            of("after, without preservation", prior__weight=0.0),
            _at_high_rate("after, at the higher rate"),
        ),
        claims=(
            Claim("The identifier is bound to the subject.", PAPER, "recognised", "after", "before"),
            Claim("The subject is learnt, not only its class.", PAPER, "fidelity", "after", "before"),
            Claim(
                "Without preservation the class drifts to the subject.",
                PAPER,
                "drift",
                "after, without preservation",
                "after",
            ),
            Claim("Preservation keeps the class diverse.", PAPER, "diversity", "after", "after, without preservation"),
            Claim(
                "Preservation costs a little subject fidelity.",
                PAPER,
                "fidelity",
                "after, without preservation",
                "after",
            ),
        ),
        crossed=True,
    ),
    Experiment(
        title="Prior preservation",
        conditions=(
            _at_high_rate("λ = 0", prior__weight=0.0),
            _at_high_rate("λ = 0.5", prior__weight=0.5),
            _at_high_rate("λ = 1"),
            _at_high_rate("λ = 2", prior__weight=2.0),
        ),
        claims=(Claim("The more preservation, the less the class drifts.", PAPER, "drift", "λ = 0.5", "λ = 2"),),
    ),
    Experiment(
        title="Class prompts",
        conditions=tuple(_class_prompts(trained, made) for trained in _PROMPTS for made in _PROMPTS),
        claims=(
            Claim(
                "Plain words with specific pictures are truer than plain words with plain pictures.",
                CAT,
                "fidelity",
                _made("plain", "specific"),
                _made("plain", "plain"),
            ),
            Claim(
                "Plain words with specific pictures are truer than specific words with specific pictures.",
                CAT,
                "fidelity",
                _made("plain", "specific"),
                _made("specific", "specific"),
            ),
            Claim(
                "Plain words with plain pictures overfit: prompts are obeyed less.",
                CAT,
                "prompt",
                _made("plain", "specific"),
                _made("plain", "plain"),
            ),
        ),
    ),
    Experiment(
        title="Text encoder",
        conditions=(
            _at_high_rate("frozen", text_encoder__stop=0),
            _at_high_rate("always trained"),
            _at_high_rate("last 200 steps", text_encoder__start=200),
        ),
        claims=(
            Claim("Training the text encoder makes the subject truer.", TALK, "fidelity", "always trained", "frozen"),
            Claim("A frozen text encoder leaves prompts obeyed better.", CAT, "prompt", "frozen", "always trained"),
            Claim(
                "A late stretch of text-encoder training harms most.", CAT, "prompt", "always trained", "last 200 steps"
            ),
        ),
    ),
    Experiment(
        title="Learning rate and steps",
        conditions=tuple(
            _grid(rate, steps, sampling) for rate in _RATES for steps in _STEPS for sampling in _SAMPLINGS
        ),
        claims=(
            Claim(
                "The high rate for long is truest.",
                GRID,
                "fidelity",
                "high rate, all steps; 25 at guidance 6",
                "low rate, all steps; 25 at guidance 6",
            ),
            Claim(
                "More steps are truer.",
                GRID,
                "fidelity",
                "low rate, all steps; 25 at guidance 6",
                "low rate, half the steps; 25 at guidance 6",
            ),
            Claim(
                "A higher rate overfits: prompts are obeyed less.",
                CAT,
                "prompt",
                "low rate, all steps; 25 at guidance 6",
                "high rate, all steps; 25 at guidance 6",
            ),
            Claim(
                "Of inference, many steps at a high guidance scale are truest.",
                GRID,
                "fidelity",
                "high rate, all steps; 25 at guidance 6",
                "high rate, all steps; 15 at guidance 3",
            ),
        ),
    ),
    Experiment(
        title="Guidance",
        conditions=tuple(
            replace(_at_high_rate(f"guidance {scale:g}"), sampling=Sampling(guidance_scale=scale))
            for scale in (1.0, 3.0, 6.0, 9.0)
        ),
        claims=(Claim("Guidance makes prompts obeyed.", TALK, "prompt", "guidance 3", "guidance 1"),),
    ),
    Experiment(
        title="Number of pictures",
        conditions=tuple(_at_high_rate(f"{n} picture{'s' * (n > 1)}", instances=n) for n in range(1, 7)),
        claims=(
            Claim("Five pictures are truer than one.", PAPER, "fidelity", "5 pictures", "1 picture"),
            Claim(
                "With three pictures it is recognised more than with one.",
                PAPER,
                "recognised",
                "3 pictures",
                "1 picture",
            ),
        ),
    ),
    Experiment(
        title="Class noun",
        conditions=(
            _at_high_rate("correct"),
            _at_high_rate("none", words="a {identifier}"),
            _at_high_rate("wrong", words="a {identifier} {wrong_noun}"),
        ),
        claims=(
            Claim("The right noun is truer than none.", PAPER, "fidelity", "correct", "none"),
            Claim("The right noun is truer than a wrong one.", PAPER, "fidelity", "correct", "wrong"),
        ),
    ),
    WAYS,
)
