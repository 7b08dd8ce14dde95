# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whether a drawing of the embedded model keeps to its prompt, by pixels.

background   the colour of its outermost pixels, the nearest of the twelve that prompts may ask for
place        the centre of what differs from them, the nearest of left, right, top, bottom and middle
"""

import re

import numpy as np
from jaxtyping import Float, Shaped, UInt8

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (24, 24, 28),
    "white": (246, 246, 244),
    "gray": (142, 146, 150),
    "red": (206, 44, 48),
    "orange": (240, 136, 36),
    "yellow": (246, 212, 66),
    "green": (62, 156, 74),
    "teal": (52, 178, 178),
    "blue": (46, 98, 204),
    "purple": (122, 66, 176),
    "pink": (240, 150, 190),
    "brown": (124, 82, 50),
}
"""Colours of plain backgrounds, in [0, 255]."""
PLACES = {
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
}
"""Centres of things, as shares of width and height."""
_PLAIN = re.compile(r"on an? (\w+) background$")
_PLACE = re.compile("|".join(PLACES))
_FOREGROUND = 40
"""Largest difference of a channel, in [0, 255], that still counts as background."""


def border_colour(picture: Shaped[np.ndarray, "h w 3"]) -> np.ndarray:
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


def nearest_background(rgb: Float[np.ndarray, "3"] | UInt8[np.ndarray, "3"]) -> str:
    """The background colour that a colour in [0, 255] is nearest to."""
    table = np.array(list(BACKGROUNDS.values()), np.float32)
    return list(BACKGROUNDS)[int(np.square(table - rgb).sum(1).argmin())]
