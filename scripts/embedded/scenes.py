# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Backgrounds and the words for them: plain, patterned, and nine places made of a few shapes."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from dreambooth_jax.evaluation.drawn_scenes import BACKGROUNDS

Colour = tuple[int, int, int]
PATTERNS = ("striped", "dotted", "checkered")
GROUNDS: dict[str, Colour] = {
    "on the grass": (96, 178, 74),
    "on the beach": (236, 214, 158),
    "in the snow": (240, 244, 250),
    "in the water": (52, 122, 200),
    "at night": (30, 44, 60),
    "on a table": (150, 98, 58),
    "in the desert": (222, 168, 96),
    "in the city": (120, 122, 128),
    "in the forest": (70, 128, 62),
}


def with_article(words: str) -> str:
    """a or an."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def jitter(rng: np.random.Generator, colour: Colour, by: int = 14) -> Colour:
    """A colour nearby."""
    red, green, blue = (int(np.clip(v + rng.integers(-by, by + 1), 0, 255)) for v in colour)
    return red, green, blue


def background(rng: np.random.Generator, size: int, *, plain: float, patterned: float) -> tuple[Image.Image, str]:
    """A picture of ``size`` pixels and its words: plain or patterned with these shares, otherwise a place."""
    kind = rng.random()
    first, second = (str(name) for name in rng.choice(list(BACKGROUNDS), 2, replace=False))
    if kind < plain:
        return of_colour(rng, size, first), f"on {with_article(first)} background"
    if kind < plain + patterned:
        pattern, picture = str(rng.choice(PATTERNS)), of_colour(rng, size, first)
        step, fill = size // int(rng.integers(4, 7)), jitter(rng, BACKGROUNDS[second])
        _pattern(ImageDraw.Draw(picture), pattern, size, step, fill)
        return picture, f"on {with_article(first)} and {second} {pattern} background"
    words = str(rng.choice(list(GROUNDS)))
    return place(rng, size, words), words


def of_colour(rng: np.random.Generator, size: int, name: str) -> Image.Image:
    """A plain background."""
    return Image.new("RGB", (size, size), jitter(rng, BACKGROUNDS[name]))


def place(rng: np.random.Generator, size: int, words: str) -> Image.Image:
    """Sky, what stands before it, and ground."""
    horizon = int(size * rng.uniform(0.45, 0.62))
    picture = Image.new("RGB", (size, size), jitter(rng, (150, 205, 240)))
    draw = ImageDraw.Draw(picture)
    if words in _PROPS:
        _PROPS[words](draw, rng, size, horizon)
    draw.rectangle((0, horizon, size, size), fill=jitter(rng, GROUNDS[words]))
    return picture


def _pattern(draw: ImageDraw.ImageDraw, pattern: str, size: int, step: int, fill: Colour) -> None:
    for i, x in enumerate(range(0, size, step)):
        if pattern == "striped":
            draw.rectangle((x, 0, x + step // 2 - 1, size), fill=fill)
            continue
        for j, y in enumerate(range(0, size, step)):
            if pattern == "dotted":
                draw.ellipse((x, y, x + step // 2, y + step // 2), fill=fill)
            elif (i + j) % 2:
                draw.rectangle((x, y, x + step - 1, y + step - 1), fill=fill)


def _night(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, horizon: int) -> None:
    draw.rectangle((0, 0, size, size), fill=jitter(rng, (18, 22, 58), 8))
    star = 3 * size // 128
    for _ in range(14):
        x, y = int(rng.integers(0, size)), int(rng.integers(0, horizon))
        draw.ellipse((x, y, x + star, y + star), fill=(250, 246, 210))
    draw.ellipse((size * 0.74, size * 0.06, size * 0.9, size * 0.22), fill=(246, 236, 180))


def _beach(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, horizon: int) -> None:
    draw.rectangle((0, horizon - size // 9, size, horizon), fill=jitter(rng, (60, 150, 210)))


def _table(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, horizon: int) -> None:
    draw.rectangle((0, 0, size, horizon), fill=jitter(rng, (228, 214, 196)))


def _city(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, horizon: int) -> None:
    for x in range(0, size, size // 6):
        height = int(rng.integers(size // 6, size // 2))
        draw.rectangle((x, horizon - height, x + size // 7, horizon), fill=jitter(rng, (110, 120, 145), 20))


def _forest(draw: ImageDraw.ImageDraw, rng: np.random.Generator, size: int, horizon: int) -> None:
    for x in range(-size // 12, size, size // 6):
        top = horizon - size // 3 - int(rng.integers(0, size // 8))
        draw.polygon([(x, horizon), (x + size // 8, top), (x + size // 4, horizon)], fill=jitter(rng, (36, 92, 52)))


_PROPS: dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator, int, int], None]] = {
    "at night": _night,
    "on the beach": _beach,
    "on a table": _table,
    "in the city": _city,
    "in the forest": _forest,
}
