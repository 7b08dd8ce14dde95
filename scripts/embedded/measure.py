# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whether a picture keeps to its caption: by pixels, and by the judge of the study.

background   the colour of its outermost pixels, the nearest of the twelve
place        the centre of what differs from them, the nearest of left, right, top, bottom and middle
class        what the judge, who knows many more classes, takes the thing for
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax.evaluation.drawn_scenes import BACKGROUNDS, background_is_right, place_is_right

from .scenes import with_article
from .sprites import Sprite


def class_captions(sprites: Iterable[Sprite], *, members: int = 16, each: int = 8) -> dict[str, str]:
    """Caption -> class: ``each`` of every class with as many ``members`` or more, before plain backgrounds."""
    sizes, colours = Counter(sprite.noun for sprite in sprites), list(BACKGROUNDS)
    nouns = sorted(noun for noun, size in sizes.items() if size >= members)
    return {
        f"{with_article(noun)} on {with_article(colours[(i + k) % len(colours)])} background": noun
        for i, noun in enumerate(nouns)
        for k in range(each)
    }


def shares_right(pictures: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str]) -> dict[str, float | int]:
    """Share of the captions that say something for which it is right, and how many these are."""
    result: dict[str, float | int] = {}
    for name, is_right in (("background", background_is_right), ("place", place_is_right)):
        verdicts = [verdict for pair in zip(pictures, captions) if (verdict := is_right(*pair)) is not None]
        result[f"{name}_right"] = float(np.mean(verdicts)) if verdicts else 0.0
        result[f"{name}_captions"] = len(verdicts)
    return result
