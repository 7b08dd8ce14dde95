# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What photos are taken for: by the judge of drawings, or by CLIP, zero-shot (Radford et al. 2021, section 3.1)."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dreambooth_jax.evaluation.judge import SHIPPED, Judge
from dreambooth_jax.evaluation.measures import unit
from dreambooth_jax.evaluation.scores import judged
from dreambooth_jax.evaluation.towers import ClipTower, Picture
from dreambooth_jax.weights.json_files import read_json

SCALE = 100.0
"""Of CLIP's cosines: what its own has grown to, and was clipped at."""


class Naming(NamedTuple):
    """How a noun fits photos.

    Attributes:
        most: the largest probability that any photo gives it.
        instead: what most photos are taken for.
    """

    most: float
    instead: str


def named_by_judge(judge: Judge, photos: Sequence[Picture], noun: str) -> Naming | None:
    """By the nouns that the judge knows; None of one that it does not know."""
    last = noun.split()[-1:]
    known = next((one for one in (noun, *last) if one in judge.nouns), None)
    return _naming(judged(judge, photos).shares, judge.nouns, known) if known else None


def named_by_clip(clip: ClipTower, photos: Sequence[Picture], noun: str) -> Naming | None:
    """Among everyday nouns."""
    nouns = list(dict.fromkeys([noun, *read_json(SHIPPED / "judge.json")["nouns"]]))
    texts = unit(clip.texts([f"a photo of a {one}" for one in nouns]))
    scores = SCALE * unit(clip.pictures(photos)) @ texts.T
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return _naming(shares / shares.sum(1, keepdims=True), nouns, noun)


def _naming(shares: Float[np.ndarray, "n nouns"], nouns: Sequence[str], noun: str) -> Naming:
    ((instead, _),) = Counter(nouns[i] for i in shares.argmax(1)).most_common(1)
    return Naming(most=float(shares[:, list(nouns).index(noun)].max()), instead=instead)
