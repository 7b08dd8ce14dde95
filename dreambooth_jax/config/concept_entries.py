# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Entries of ``data.concepts``, for a run of several subjects.

data:
  concepts:
    - {identifier: sks, class_noun: dog, instance_images: photos/dog}
    - {identifier: zwx, class_noun: cat, instance_images: photos/cat, weight: 0.5}
"""

from dataclasses import dataclass

from dreambooth_jax.config.setting import Settings, setting


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
    instance_weight: float = setting(1.0, above=0, at_most=10_000)
    """Weight of the loss of its own photos, beside those of other subjects."""
    repeats: int | None = setting(None, at_least=1, at_most=10_000)
    """How often each of its photos comes in an epoch; by default every subject is shown as often as another."""
