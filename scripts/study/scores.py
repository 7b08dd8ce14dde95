# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is measured of a personalised model, after the paper's five (§ 4.2-4.3), with the judge in place of DINO.

| here       | the paper's | what it is |
|------------|-------------|------------|
| recognised |             | share of pictures with the identifier that the judge takes for the subject |
| fidelity   | DINO        | mean cosine similarity of these to the instance pictures |
| prompt     | CLIP-T      | share of them whose background, and place, are what the prompt says |
| leaked     |             | share of class pictures, made with the class prompt, that the judge takes for the subject |
| elsewhere  |             | the same with a background in the prompt, which class images were not made for |
| drift      | PRES        | mean cosine similarity of class pictures to the instance pictures (less is better) |
| diversity  | DIV         | mean cosine distance between class pictures |
| class      |             | share of class pictures that the judge takes for the class |
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from embedded.scenes import with_article
from jaxtyping import Float, UInt8

from dreambooth_jax.evaluation.drawn_scenes import background_is_right, place_is_right
from dreambooth_jax.evaluation.judge import Judge

METRICS = ("recognised", "fidelity", "prompt", "leaked", "elsewhere", "drift", "diversity", "class")
COSTS = ("seconds", "seconds_together", "megabytes")
"""Of a training by itself, of one among several of one program, and of the files that it ends with."""

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
_ELSEWHERE = ("on a white background", "on a blue background", "on a green background", "on the grass")
PER_PROMPT, OF_CLASS = 4, 16
PICTURES = (len(_WHERE) + len(_ELSEWHERE)) * PER_PROMPT + OF_CLASS


class Asked(NamedTuple):
    """Prompts of the pictures to be judged."""

    identifier: list[str]
    of_class: list[str]
    elsewhere: list[str]


def prompts(words: str, class_noun: str) -> Asked:
    """For a subject that is called ``words``, such as "a sks dog"."""
    a_class = with_article(class_noun)
    return Asked(
        [f"{words} {where}" for where in _WHERE for _ in range(PER_PROMPT)],
        [a_class] * OF_CLASS,
        [f"{a_class} {where}" for where in _ELSEWHERE for _ in range(PER_PROMPT)],
    )


def score(
    judge: Judge,
    *,
    subject: str,
    class_noun: str,
    asked: Asked,
    instances: UInt8[np.ndarray, "i h w 3"],
    identifier_pictures: UInt8[np.ndarray, "n h w 3"],
    class_pictures: UInt8[np.ndarray, "m h w 3"],
    elsewhere_pictures: UInt8[np.ndarray, "k h w 3"],
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
        elsewhere_pictures: of ``asked.elsewhere``.
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
        "elsewhere": _share(judge(elsewhere_pictures).subjects, subject),
        "drift": similarity(others.features, real.features),
        "diversity": diversity(others.features),
        "class": _share(others.nouns, class_noun),
    }


def similarity(found: Float[np.ndarray, "n d"], real: Float[np.ndarray, "i d"]) -> float:
    """Mean cosine similarity over all pairs, of features of length 1."""
    return float((found @ real.T).mean())


def diversity(features: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine distance over all pairs of different pictures."""
    different = ~np.eye(len(features), dtype=bool)
    return float(1 - (features @ features.T)[different].mean())


def _share(said: Sequence[str], wanted: str) -> float:
    return float(np.mean([one == wanted for one in said]))
