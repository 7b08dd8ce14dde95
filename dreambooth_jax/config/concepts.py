# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The subjects of a run: one, said by ``data`` and ``prior``, or several, each with an entry of ``data.concepts``."""

from dataclasses import dataclass
from typing import TypeVar

from dreambooth_jax.config.concept_entries import ConceptConfig
from dreambooth_jax.config.schema import Config

T = TypeVar("T")


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
    instance_weight: float


def concepts_of(config: Config) -> tuple[Concept, ...]:
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
            instance_weight=one.instance_weight,
        )
        for number, one in enumerate(data.concepts or [alone])
    )


def _or(own: T | None, shared: T) -> T:
    return shared if own is None else own


def _images_prompt(one: ConceptConfig, config: Config) -> str:
    """Its own, or the prompt that it is trained with if that is its own; else those of the run."""
    prior = config.prior
    shared = prior.class_images_prompt or prior.class_prompt
    return one.class_images_prompt or one.class_prompt or shared


def makes_class_images(config: Config) -> bool:
    """Are pictures of the classes needed?"""
    return config.prior.kind == "pictures" and has_prior(config)


def has_prior(config: Config) -> bool:
    """Does any of a run's subjects have a prior term?"""
    return any(concept.weight for concept in concepts_of(config))
