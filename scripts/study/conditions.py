# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is compared with what, and what the founding documents claim of it.

Every condition is the quick start (``configs/quickstart.yaml``) with something changed, so that the usual run, trained
once for a subject and a seed, stands in all experiments that it belongs to.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WORDS = "a {identifier} {class_noun}"
"""Of an instance picture, before where it is."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is personalised.

    Attributes:
        settings: config keys that differ from the quick start.
        instances: pictures of the subject.
        words: what their captions call it.
        trained: False for the pretrained model as it is.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    instances: int = 5
    words: str = WORDS
    trained: bool = True

    @property
    def key(self) -> str:
        """The same for the same training."""
        said = repr((sorted(self.settings.items()), self.instances, self.words)) if self.trained else "untrained"
        return f"{zlib.crc32(said.encode()):08x}"


class Sampling(NamedTuple):
    """How it is sampled."""

    steps: int = 25
    guidance_scale: float = 3.0


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A row of a table."""

    name: str
    training: Training
    sampling: Sampling = field(default_factory=Sampling)


class Claim(NamedTuple):
    """That one condition has more of something than another."""

    text: str
    metric: str
    more: str
    less: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table."""

    title: str
    conditions: tuple[Condition, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def slug(self) -> str:
        """For file names."""
        return self.title.lower().replace(" ", "_")


def _of(name: str, *, instances: int = 5, words: str = WORDS, **settings: Any) -> Condition:
    """Keyword arguments are config keys with two underscores for the dot."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    return Condition(name=name, training=Training(settings=own, instances=instances, words=words))


def _sampled(name: str, **sampling: Any) -> Condition:
    return Condition(name=name, training=Training(), sampling=Sampling(**sampling))


_PROMPTS = {"plain": "{a_class}", "specific": "a flat {class_noun}"}

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        title="Before and after",
        conditions=(Condition(name="before", training=Training(trained=False)), _of("after")),
        claims=(
            Claim("The identifier is bound to the subject.", "recognised", "after", "before"),
            Claim("What is learnt looks like the subject, not only like its class.", "fidelity", "after", "before"),
        ),
    ),
    Experiment(
        title="Prior preservation",
        conditions=(
            _of("λ = 0", prior__weight=0.0),
            _of("λ = 0.5", prior__weight=0.5),
            _of("λ = 1"),
            _of("λ = 2", prior__weight=2.0),
        ),
        claims=(
            Claim("Without it the class drifts to the subject (the paper's PRES).", "drift", "λ = 0", "λ = 1"),
            Claim("It keeps the class diverse (the paper's DIV).", "diversity", "λ = 1", "λ = 0"),
            Claim("It costs a little subject fidelity.", "fidelity", "λ = 0", "λ = 1"),
        ),
    ),
    Experiment(
        title="Class prompts",
        conditions=tuple(
            _of(
                f"trained as {trained}, made as {made}",
                prior__class_prompt=_PROMPTS[trained],
                prior__class_images_prompt=_PROMPTS[made],
            )
            for trained in ("plain", "specific")
            for made in ("plain", "specific")
        ),
        claims=(
            Claim(
                "Class images of a specific prompt under the plain one keep the subject apart best.",
                "fidelity",
                "trained as plain, made as specific",
                "trained as plain, made as plain",
            ),
        ),
    ),
    Experiment(
        title="Text encoder",
        conditions=(
            _of("frozen"),
            _of("always trained", text_encoder__stop=-1),
            _of("last 200 steps", text_encoder__start=200, text_encoder__stop=-1),
        ),
        claims=(
            Claim("Training it makes the subject truer.", "fidelity", "always trained", "frozen"),
            Claim("Training it to the end costs obedience to the prompt.", "prompt", "frozen", "always trained"),
            Claim("A late stretch obeys better than all of the run.", "prompt", "last 200 steps", "always trained"),
        ),
    ),
    Experiment(
        title="Learning rate and steps",
        conditions=tuple(
            _of(f"{rate:g}, {steps} steps", optimizer__learning_rate=rate, train__steps=steps)
            for rate in (3e-4, 1e-3)
            for steps in (200, 400)
        ),
        claims=(
            Claim("At a low rate, more steps are truer.", "fidelity", "0.0003, 400 steps", "0.0003, 200 steps"),
            Claim("A high rate for long costs obedience.", "prompt", "0.0003, 400 steps", "0.001, 400 steps"),
        ),
    ),
    Experiment(
        title="Guidance and steps of inference",
        conditions=(
            *(_sampled(f"guidance {scale:g}", guidance_scale=scale) for scale in (1.0, 3.0, 6.0, 9.0)),
            *(_sampled(f"{steps} steps", steps=steps) for steps in (10, 50)),
        ),
        claims=(
            Claim("Guidance makes prompts obeyed.", "prompt", "guidance 3", "guidance 1"),
            Claim("Fifty steps show the subject better than ten.", "fidelity", "50 steps", "10 steps"),
        ),
    ),
    Experiment(
        title="Number of pictures",
        conditions=tuple(_of(f"{n} picture{'s' * (n > 1)}", instances=n) for n in range(1, 7)),
        claims=(
            Claim("Five pictures are better than one.", "fidelity", "5 pictures", "1 picture"),
            Claim("After four, more hardly help.", "fidelity", "6 pictures", "4 pictures"),
        ),
    ),
    Experiment(
        title="Class noun",
        conditions=(
            _of("correct"),
            _of("none", words="a {identifier}"),
            _of("wrong", words="a {identifier} {wrong_noun}"),
        ),
        claims=(
            Claim("The right noun is truer than none.", "fidelity", "correct", "none"),
            Claim("The right noun is truer than a wrong one.", "fidelity", "correct", "wrong"),
        ),
    ),
)
