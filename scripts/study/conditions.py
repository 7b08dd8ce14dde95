# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is compared with what, and what the founding documents claim of it.

Every condition is the quick start (``configs/quickstart.yaml``) with something changed, and a training, done once for a
subject and a seed, stands in all experiments that it belongs to. The first experiment is of the quick start as it is;
those that ask what one thing does are at a higher learning rate, because what harms prompts shows there.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    source: str
    metric: str
    more: str
    less: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table."""

    title: str
    conditions: tuple[Condition, ...]
    claims: tuple[Claim, ...] = ()
    crossed: bool = False
    """Every subject with every seed. Otherwise each subject has one seed, in turn: more subjects for the same time."""
    costs: bool = False
    """Also tell what training takes and what comes of it weighs."""

    @property
    def slug(self) -> str:
        """For file names."""
        return self.title.lower().replace(" ", "_")


def _of(name: str, *, instances: int = 5, words: str = WORDS, **settings: Any) -> Condition:
    """Keyword arguments are config keys with two underscores for the dot."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    return Condition(name=name, training=Training(settings=own, instances=instances, words=words))


def _at_high_rate(name: str, *, instances: int = 5, words: str = WORDS, **settings: Any) -> Condition:
    """The same at the higher learning rate."""
    return _of(name, instances=instances, words=words, **(_HIGH_RATE | settings))


_HIGH_RATE = {"optimizer__learning_rate": 1e-3}
_LORA = {"adapter__kind": "lora", "optimizer__learning_rate": 3e-3}
_WORDS = {"tokens__learning_rate": 1e-2}
_WORDS_ALONE = {"adapter__kind": "textual_inversion", "prior__weight": 0.0, "text_encoder__stop": 0}
_PROMPTS = {"plain": "{a_class}", "specific": "a flat {class_noun}"}

PAPER, CAT, GRID, TALK = (
    "the paper",
    "a report on a cat, with Stable Diffusion 1.4, 1.5 and 2",
    "a report on a cat, rates × steps",
    "a talk with people and backpacks",
)
_RATES = {"low rate": {}, "high rate": _HIGH_RATE}
_STEPS = {"half the steps": {"train__steps": 200}, "all steps": {}}
_SAMPLINGS = (Sampling(15, 3.0), Sampling(15, 6.0), Sampling(25, 6.0))


def _class_prompts(trained: str, made: str) -> Condition:
    as_it_is = trained == made == "plain"
    words = {"prior__class_prompt": _PROMPTS[trained], "prior__class_images_prompt": _PROMPTS[made]}
    return _at_high_rate(_made(trained, made), **({} if as_it_is else words))


def _made(trained: str, made: str) -> str:
    return f"trained as {trained}, made as {made}"


def _grid(rate: str, steps: str, sampling: Sampling) -> Condition:
    name = f"{rate}, {steps}; {sampling.steps} at guidance {sampling.guidance_scale:g}"
    return replace(_of(name, **_RATES[rate], **_STEPS[steps]), sampling=sampling)


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        title="Before and after",
        conditions=(
            Condition(name="before", training=Training(trained=False)),
            _of("after"),
            _of("after, without preservation", prior__weight=0.0),
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
    Experiment(
        title="Ways to personalise",
        conditions=(
            _of("full"),
            _of("LoRA, rank 4", **_LORA, adapter__rank=4),
            _of("LoRA, rank 16", **_LORA),
            _of("DoRA, rank 16", **_LORA, adapter__dora="input"),
            _of("LoKr", **(_LORA | {"adapter__kind": "lokr"})),
            _of("textual inversion", **_WORDS, **_WORDS_ALONE),
            _of("pivotal tuning", **(_LORA | _WORDS | {"adapter__kind": "pivotal"})),
            _of("LiDB", **(_LORA | {"adapter__kind": "lidb"})),
        ),
        claims=(
            Claim("LoRA is as true as full fine-tuning, or truer.", TALK, "fidelity", "LoRA, rank 16", "full"),
            Claim("DreamBooth is truer than textual inversion.", PAPER, "fidelity", "full", "textual inversion"),
            Claim("Textual inversion keeps the class more diverse.", PAPER, "diversity", "textual inversion", "full"),
        ),
        costs=True,
    ),
)
