# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whether a picture keeps to its caption: by pixels, and by the judge of the study.

background   the colour of its outermost pixels, the nearest of the twelve
place        the centre of what differs from them, the nearest of left, right, top, bottom and middle
class        what the judge, who knows many more classes, takes the thing for
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from .colours import BACKGROUNDS, nearest_background
from .compose import PLACES
from .scenes import with_article
from .sprites import Sprite

_PLAIN = re.compile(r"on an? (\w+) background$")
_PLACE = re.compile("|".join(PLACES))
_FOREGROUND = 40
"""Largest difference of a channel, in [0, 255], that still counts as background."""


def border_colour(picture: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """Median of the outermost two pixels on each side."""
    inside = np.zeros(picture.shape[:2], bool)
    inside[2:-2, 2:-2] = True
    return np.median(picture[~inside], axis=0)


def said_background(caption: str) -> str | None:
    """The colour that a caption gives a plain background."""
    found = _PLAIN.search(caption)
    return found[1] if found else None


def said_place(caption: str) -> str | None:
    """The place that a caption gives its one thing."""
    found = _PLACE.search(caption)
    return found[0] if found else None


def background_is_right(picture: UInt8[np.ndarray, "h w 3"], caption: str) -> bool | None:
    """None where the caption does not name the colour of a plain background."""
    said = said_background(caption)
    return None if said is None else nearest_background(border_colour(picture)) == said


def place_is_right(picture: UInt8[np.ndarray, "h w 3"], caption: str) -> bool | None:
    """None where the caption has no place, or no plain background that the thing could be told from."""
    said = said_place(caption)
    if said is None or said_background(caption) is None:
        return None
    differs = np.abs(picture.astype(float) - border_colour(picture)).max(-1) > _FOREGROUND
    if not differs.any():
        return False
    y, x = (np.mean(where) / side for where, side in zip(np.nonzero(differs), differs.shape))
    centres = {**PLACES, "in the middle": (0.5, 0.5)}
    return min(centres, key=lambda name: (centres[name][0] - x) ** 2 + (centres[name][1] - y) ** 2) == said


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
