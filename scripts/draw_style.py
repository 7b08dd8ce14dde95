#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Draw the style that an experiment teaches the embedded model: ten things in chalk on a slate, drawings of our own.

    python scripts/draw_style.py [dreambooth_jax/embedded/style]

Each picture lies beside its caption, which says what is on it, with the identifier left to be filled in.
"""

import argparse
from collections.abc import Sequence
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, FINE = 128, 4
SLATE, CHALK = (38, 58, 54), (238, 236, 220)
Line = Sequence[tuple[float, float]]
"""Points in fractions of the picture's side."""


def arc(x: float, y: float, width: float, height: float, start: float = 0.0, stop: float = 1.0) -> Line:
    """A part of an ellipse about (x, y): from ``start`` to ``stop``, in turns, clockwise from the right."""
    turns = np.linspace(start, stop, 25)
    return [(x + width / 2 * cos(2 * pi * t), y + height / 2 * sin(2 * pi * t)) for t in turns]


def box(left: float, top: float, right: float, bottom: float) -> Line:
    """A rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


THINGS: dict[str, Sequence[Line]] = {
    "house": (box(0.25, 0.48, 0.75, 0.85), [(0.18, 0.5), (0.5, 0.18), (0.82, 0.5)], box(0.44, 0.62, 0.57, 0.85)),
    "tree": (arc(0.5, 0.38, 0.52, 0.48), [(0.45, 0.61), (0.44, 0.88)], [(0.55, 0.61), (0.56, 0.88)]),
    "rocket": (
        [(0.4, 0.75), (0.38, 0.4), (0.5, 0.12), (0.62, 0.4), (0.6, 0.75), (0.4, 0.75)],
        [(0.39, 0.58), (0.24, 0.8), (0.4, 0.74)],
        [(0.61, 0.58), (0.76, 0.8), (0.6, 0.74)],
        arc(0.5, 0.42, 0.12, 0.12),
    ),
    "fish": (
        arc(0.44, 0.5, 0.56, 0.36),
        [(0.7, 0.5), (0.88, 0.34), (0.88, 0.66), (0.7, 0.5)],
        arc(0.29, 0.45, 0.05, 0.05),
        arc(0.44, 0.5, 0.18, 0.22, -0.2, 0.2),
    ),
    "flower": (
        *(arc(0.5 + 0.16 * cos(2 * pi * k / 5), 0.36 + 0.16 * sin(2 * pi * k / 5), 0.18, 0.18) for k in range(5)),
        arc(0.5, 0.36, 0.14, 0.14),
        [(0.5, 0.55), (0.48, 0.9)],
        arc(0.57, 0.74, 0.16, 0.09),
    ),
    "apple": (arc(0.5, 0.56, 0.56, 0.54), [(0.5, 0.3), (0.53, 0.15)], arc(0.62, 0.2, 0.16, 0.09)),
    "cup": (
        [(0.26, 0.34), (0.32, 0.8), (0.6, 0.8), (0.66, 0.34)],
        arc(0.46, 0.34, 0.4, 0.1),
        arc(0.66, 0.54, 0.26, 0.26, -0.22, 0.27),
    ),
    "car": (
        [(0.12, 0.68), (0.12, 0.52), (0.28, 0.5), (0.38, 0.34), (0.64, 0.34), (0.74, 0.5), (0.88, 0.54), (0.88, 0.68)],
        [(0.12, 0.68), (0.88, 0.68)],
        arc(0.3, 0.7, 0.18, 0.18),
        arc(0.7, 0.7, 0.18, 0.18),
    ),
    "book": (
        [(0.5, 0.3), (0.16, 0.24), (0.16, 0.72), (0.5, 0.78), (0.84, 0.72), (0.84, 0.24), (0.5, 0.3), (0.5, 0.78)],
        *([(0.22, y), (0.44, y + 0.04)] for y in (0.36, 0.46, 0.56)),
        *([(0.56, y + 0.04), (0.78, y)] for y in (0.36, 0.46, 0.56)),
    ),
    "cake": (
        [(0.2, 0.52), (0.2, 0.82), (0.8, 0.82), (0.8, 0.52)],
        arc(0.5, 0.52, 0.6, 0.14),
        [(0.5, 0.46), (0.5, 0.3)],
        arc(0.5, 0.24, 0.06, 0.1),
    ),
}


def draw(lines: Sequence[Line], rng: np.random.Generator) -> Image.Image:
    """A thing: each of its lines is drawn three times by an unsteady hand, on a slate that is not clean."""
    side = SIZE * FINE
    drawn = Image.new("L", (side, side))
    pen = ImageDraw.Draw(drawn)
    for line in lines:
        for _ in range(3):
            points = np.asarray(line) * side + rng.normal(0, side / 200, (len(line), 2))
            pen.line([tuple(point) for point in points], fill=210, width=side // 45, joint="curve")
    coverage = np.asarray(drawn, np.float32) / 255 * rng.uniform(0.65, 1, (side, side))
    clouds = Image.fromarray(rng.uniform(0, 255, (8, 8)).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    coverage = np.maximum(coverage, np.asarray(clouds, np.float32) / 255 * 0.14)[..., None]
    picture = np.asarray(SLATE) * (1 - coverage) + np.asarray(CHALK) * coverage
    picture = Image.fromarray(picture.astype(np.uint8)).filter(ImageFilter.GaussianBlur(FINE / 2))
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def main(folder: Path) -> None:
    """Write house.png, house.txt and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for thing, lines in THINGS.items():
        picture = draw(lines, rng).quantize(32)  # a third of the bytes, and nobody sees it
        picture.save(folder / f"{thing}.png", optimize=True)
        (folder / f"{thing}.txt").write_text(f"a {{identifier}} {thing}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "dreambooth_jax" / "embedded" / "style"
    parser.add_argument("folder", type=Path, nargs="?", default=default, help="where the pictures go")
    main(parser.parse_args().folder)
