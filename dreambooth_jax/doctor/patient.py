# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is known of a run that is looked at: how it trains, and how it usually would; its photos, words and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_jax.config.concepts import Concept
from dreambooth_jax.doctor.looks import Looks
from dreambooth_jax.doctor.photo_facts import PhotoFacts
from dreambooth_jax.doctor.regimen import Regimen

USUAL_PHOTOS = 5
"""That recipes' steps are for: the paper has three to five, the data set four to six."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One picture of the subject, or of its class.

    Attributes:
        name: of its file.
        height, width: in pixels.
        facts: by its pixels.
        prompt: what it is called in training.
    """

    name: str
    height: int
    width: int
    facts: PhotoFacts
    prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token that the identifier has in the model's tokenizer.

    Attributes:
        text: of it.
        common: is it a word that the model has often read?
    """

    text: str
    common: bool


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A run with one subject.

    Attributes:
        concept: its subject.
        regimen: how it trains.
        recipe: how it usually would; None if nothing is usual.
        steps: that it has taken; None where it has no checkpoint.
        side: pixels of the shorter side of what it trains with.
        crop: how photos are cut to it.
        photos: of the subject.
        class_images: some of those that it was trained with.
        pieces: of the identifier; none where the tokenizer is not there, or it is a new word.
        looks: its pictures; None if nobody looked at them.
    """

    concept: Concept
    regimen: Regimen
    recipe: Regimen | None
    steps: int | None
    side: int
    crop: str
    photos: Sequence[Photo]
    class_images: Sequence[Photo] = ()
    pieces: Sequence[Piece] = ()
    looks: Looks | None = None

    @property
    def unfinished(self) -> bool:
        """Will it go on?"""
        return self.steps is None or self.steps < self.regimen.steps

    @property
    def rate(self) -> float:
        """Learning rate, as a share of the usual; 1 where nothing is usual, as are all of these."""
        return self.regimen.rate / self.recipe.rate if self.recipe else 1.0

    @property
    def longer(self) -> float:
        """How many times too long it is to be: in steps, or in steps for each photo, whichever is less."""
        return min(self._lengths)

    @property
    def shorter(self) -> float:
        """Steps that it is to take as a share of the usual, or for each photo, whichever is more."""
        return max(self._lengths)

    @property
    def _lengths(self) -> tuple[float, float]:
        if not self.recipe:
            return 1.0, 1.0
        steps = self.regimen.steps / self.recipe.steps
        return steps, steps * USUAL_PHOTOS / len(self.photos)
