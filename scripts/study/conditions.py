# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a study compares: conditions of training and sampling, tables of them, and claims about them.

Every condition is ``base.yaml``, full fine-tuning, with something changed, and a training, done once for a
subject and a seed, stands in all experiments that it belongs to.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dreambooth_jax.adapters.registry import WITH_MEMBERS

PAPER, CAT, GRID, TALK = (
    "the paper",
    "a report on a cat, with Stable Diffusion 1.4, 1.5 and 2",
    "a report on a cat, rates × steps",
    "a talk with people and backpacks",
)
"""Where claims are from."""

WORDS = "a {identifier} {class_noun}"
"""Of an instance picture, before where it is."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is personalised.

    Attributes:
        settings: config keys that differ from ``base.yaml``.
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

    @property
    def has_members(self) -> bool:
        """Does one program train several subjects and seeds?"""
        return self.settings.get("adapter.kind") in WITH_MEMBERS


class Sampling(NamedTuple):
    """How it is sampled."""

    steps: int = 25
    guidance_scale: float = 3.0


FAST = Sampling(steps=15)
"""Pictures are hardly worse."""


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
    """Every subject with every seed. Otherwise each subject has one seed, in turn, more subjects for the same time, but
    where one program trains all of them."""
    costs: bool = False
    """Also tell what training takes and what comes of it weighs."""
    baseline: str = ""
    """Condition that all others are compared with in a table of its own."""

    @property
    def slug(self) -> str:
        """For file names."""
        return self.title.lower().replace(" ", "_")


def of(name: str, *, instances: int = 5, words: str = WORDS, **settings: Any) -> Condition:
    """Keyword arguments are config keys with two underscores for the dot."""
    own = {key.replace("__", "."): value for key, value in settings.items()}
    return Condition(name=name, training=Training(settings=own, instances=instances, words=words))
