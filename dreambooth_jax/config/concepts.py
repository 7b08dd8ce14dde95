# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The subjects of a run: one, said by ``data`` and ``prior``, or several, each with an entry of ``data.concepts``.

data:
  concepts:
    - {identifier: sks, class_noun: dog, instance_images: photos/dog}
    - {identifier: zwx, class_noun: cat, instance_images: photos/cat, weight: 0.5}
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from dreambooth_jax.config.setting import Settings, setting

if TYPE_CHECKING:
    from dreambooth_jax.config.schema import Config

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ConceptConfig(Settings):
    """One of several subjects."""

    identifier: str = setting("", nonempty=True, hint="choose a rare word of its own for each, such as sks and zwx")
    """Rare word that this subject is bound to."""
    class_noun: str | None = None
    """What it is: dog, backpack, person; by default data.class_noun."""
    instance_images: str = setting("", path=True, nonempty=True, resumable=True)
    """Folder with its photos, or a datasets id."""
    instance_prompt: str | None = None
    """Prompt of its photos that have no caption; by default data.instance_prompt."""
    class_prompt: str | None = None
    """Prompt that its class images are trained with; by default prior.class_prompt."""
    class_images_prompt: str | None = None
    """Prompt that its class images are made with; by default prior.class_images_prompt, or else class_prompt."""
    class_images: str | None = setting(None, path=True, nonempty=True, resumable=True)
    """Folder of its class images; by default one for each prompt that they are made with, so same classes share it."""
    num_images: int | None = setting(None, at_least=0, at_most=1_000_000)
    """How many class images to have; by default prior.num_images."""
    weight: float | None = setting(None, at_least=0)
    """λ of its class images; by default prior.weight, 0 for none."""
    repeats: int | None = setting(None, at_least=1, at_most=10_000)
    """How often each of its photos comes in an epoch; by default every subject is shown as often as another."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A subject with all that it takes from ``data`` and ``prior`` filled in.

    Attributes:
        key: group of settings that names it: ``data``, or ``data.concepts.1``.
        name: of its streams of examples; empty where a run has one subject.
    """

    key: str
    name: str
    identifier: str
    class_noun: str
    instance_images: str
    instance_prompt: str
    class_prompt: str
    class_images_prompt: str
    class_images: str | None
    num_images: int
    weight: float
    repeats: int | None


def concepts_of(config: "Config") -> tuple[Concept, ...]:
    """The subjects of a run, at least one."""
    data, prior = config.data, config.prior
    alone = ConceptConfig(identifier=data.identifier, instance_images=data.instance_images)
    return tuple(
        Concept(
            key=f"data.concepts.{number}" if data.concepts else "data",
            name=one.identifier if data.concepts else "",
            identifier=one.identifier,
            class_noun=_or(one.class_noun, data.class_noun),
            instance_images=one.instance_images,
            instance_prompt=_or(one.instance_prompt, data.instance_prompt),
            class_prompt=_or(one.class_prompt, prior.class_prompt),
            class_images_prompt=_images_prompt(one, config),
            class_images=one.class_images if data.concepts else prior.class_images,
            num_images=_or(one.num_images, prior.num_images),
            weight=_or(one.weight, prior.weight),
            repeats=one.repeats,
        )
        for number, one in enumerate(data.concepts or [alone])
    )


def _or(own: T | None, shared: T) -> T:
    return shared if own is None else own


def _images_prompt(one: ConceptConfig, config: "Config") -> str:
    """Its own, or the prompt that it is trained with if that is its own; else those of the run."""
    prior = config.prior
    shared = prior.class_images_prompt or prior.class_prompt
    return one.class_images_prompt or one.class_prompt or shared


def makes_class_images(config: "Config") -> bool:
    """Are pictures of the classes needed?"""
    return config.prior.kind == "pictures" and has_prior(config)


def has_prior(config: "Config") -> bool:
    """Does any of a run's subjects have a prior term?"""
    return any(concept.weight for concept in concepts_of(config))
