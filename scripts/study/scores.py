# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is measured of a personalised model, after the paper's five (§ 4.2-4.3), with the judge in place of DINO.

| here       | the paper's | what it is |
|------------|-------------|------------|
| recognised |             | share of pictures with the identifier that the judge takes for the subject |
| fidelity   | DINO        | mean cosine similarity of these to the instance pictures |
| prompt     | CLIP-T      | share of them whose background, and place, are what the prompt says |
| leaked     |             | share of class pictures, without the identifier, that the judge takes for the subject |
| drift      | PRES        | mean cosine similarity of class pictures to the instance pictures (less is better) |
| diversity  | DIV         | mean cosine distance between class pictures of one prompt |
| class      |             | share of class pictures that the judge takes for the class |
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from embedded.measure import background_is_right, place_is_right
from embedded.scenes import with_article
from jaxtyping import Float, UInt8

from .judge import Judge

METRICS = ("recognised", "fidelity", "prompt", "leaked", "drift", "diversity", "class")

_WHERE = (
    "on a white background",
    "on a blue background",
    "on a red background",
    "on a yellow background",
    "on the grass",
    "in the snow",
    "on the left on a teal background",
    "at the bottom on an orange background",
)
_CLASS = ("{} on a white background", "{} on a blue background", "{} on a green background", "{} on the grass")
PER_PROMPT, PER_CLASS_PROMPT = 4, 8
PICTURES = len(_WHERE) * PER_PROMPT + len(_CLASS) * PER_CLASS_PROMPT


class Asked(NamedTuple):
    """Prompts of the pictures to be judged: as many of both kinds."""

    identifier: list[str]
    of_class: list[str]


def prompts(words: str, class_noun: str) -> Asked:
    """For a subject that is called ``words``, such as "a sks dog"."""
    return Asked(
        [f"{words} {where}" for where in _WHERE for _ in range(PER_PROMPT)],
        [text.format(with_article(class_noun)) for text in _CLASS for _ in range(PER_CLASS_PROMPT)],
    )


def score(
    judge: Judge,
    *,
    subject: str,
    class_noun: str,
    asked: Asked,
    instances: UInt8[np.ndarray, "i h w 3"],
    identifier_pictures: UInt8[np.ndarray, "n h w 3"],
    class_pictures: UInt8[np.ndarray, "n h w 3"],
) -> dict[str, float]:
    """All of :data:`METRICS`.

    Args:
        judge: who knows the subject.
        subject: its name there.
        class_noun: its class.
        asked: the prompts of the pictures.
        instances: what it was learnt from.
        identifier_pictures: of ``asked.identifier``.
        class_pictures: of ``asked.of_class``.
    """
    real, own, others = (judge(pictures) for pictures in (instances, identifier_pictures, class_pictures))
    right = [
        verdict
        for picture, prompt in zip(identifier_pictures, asked.identifier, strict=True)
        for verdict in (background_is_right(picture, prompt), place_is_right(picture, prompt))
        if verdict is not None
    ]
    return {
        "recognised": _share(own.subjects, subject),
        "fidelity": similarity(own.features, real.features),
        "prompt": float(np.mean(right)),
        "leaked": _share(others.subjects, subject),
        "drift": similarity(others.features, real.features),
        "diversity": diversity(others.features, asked.of_class),
        "class": _share(others.nouns, class_noun),
    }


def similarity(found: Float[np.ndarray, "n d"], real: Float[np.ndarray, "i d"]) -> float:
    """Mean cosine similarity over all pairs, of features of length 1."""
    return float((found @ real.T).mean())


def diversity(features: Float[np.ndarray, "n d"], names: Sequence[str]) -> float:
    """Mean cosine distance over all pairs of different pictures that have the same name."""
    same = np.array([[i != j and one == other for j, other in enumerate(names)] for i, one in enumerate(names)])
    return float(1 - (features @ features.T)[same].mean())


def _share(said: Sequence[str], wanted: str) -> float:
    return float(np.mean([one == wanted for one in said]))
