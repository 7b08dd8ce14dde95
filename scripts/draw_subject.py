#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Draw the subject that the quick start personalises: a small creature of our own, in five scenes.

    python scripts/draw_subject.py [dreambooth_jax/embedded/subject]

An egg with one eye, an orange belly, magenta feet and two feelers. It is none of the sprites that the embedded model
was pretrained on, but an alien, as some of them are. Each picture lies beside its caption, in which the identifier
and the class noun are left to be filled in.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from embedded import scenes
from PIL import Image, ImageDraw

SIZE = 256
FINE = 4
"""Drawn so much larger, and then made smaller: smooth edges."""
SHELL, BELLY, LIMB, EYE, PUPIL, OUTLINE = "#17c3a5", "#ff8a1f", "#d81b9a", "#ffffff", "#1c1440", "#0b5d55"


class Scene(NamedTuple):
    """Where the creature is, and how it stands there. Lengths are fractions of the picture's side."""

    where: str
    colour: str | None
    """Of a plain background; None where ``where`` is a place."""
    height: float
    centre: tuple[float, float]
    tilt: float
    """Degrees, against the clock."""
    glance: float
    """Where it looks: -1 is left, 1 is right."""


SCENES = (
    Scene("on a yellow background", "yellow", 0.82, (0.5, 0.5), 0, 0),
    Scene("on the grass", None, 0.7, (0.46, 0.56), 7, 0.7),
    Scene("at night", None, 0.74, (0.52, 0.55), -6, -0.8),
    Scene("on the right on a white background", "white", 0.5, (0.72, 0.5), -5, 0.9),
    Scene("on the beach", None, 0.78, (0.48, 0.54), 4, -0.5),
)


def creature(side: int, glance: float) -> Image.Image:
    """The creature, upright, on a transparent square."""
    picture = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(picture)
    line = side // 50

    def ellipse(x: float, y: float, width: float, height: float, fill: str, outline: str | None = None) -> None:
        box = tuple(side * v for v in (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        draw.ellipse(box, fill=fill, outline=outline, width=line)

    for sign in (-1, 1):
        feeler = [(0.5 + sign * 0.1, 0.3), (0.5 + sign * 0.17, 0.16), (0.5 + sign * 0.25, 0.1)]
        draw.line([(side * x, side * y) for x, y in feeler], fill=OUTLINE, width=2 * line, joint="curve")
        ellipse(0.5 + sign * 0.25, 0.09, 0.13, 0.13, LIMB)
        ellipse(0.5 + sign * 0.17, 0.93, 0.24, 0.12, LIMB, OUTLINE)
        ellipse(0.5 + sign * 0.33, 0.64, 0.12, 0.2, LIMB, OUTLINE)
    ellipse(0.5, 0.57, 0.64, 0.74, SHELL, OUTLINE)
    ellipse(0.5, 0.74, 0.42, 0.34, BELLY)
    for y in (0.69, 0.79):
        draw.line([(side * x, side * y) for x in (0.38, 0.62)], fill=SHELL, width=2 * line)
    ellipse(0.5, 0.42, 0.34, 0.34, EYE, OUTLINE)
    ellipse(0.5 + 0.06 * glance, 0.43, 0.17, 0.19, PUPIL)
    ellipse(0.53 + 0.06 * glance, 0.39, 0.06, 0.06, EYE)
    return picture


def draw_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The whole picture."""
    side = SIZE * FINE
    canvas = scenes.of_colour(rng, side, scene.colour) if scene.colour else scenes.place(rng, side, scene.where)
    own = creature(int(side * scene.height), scene.glance).rotate(scene.tilt, Image.Resampling.BICUBIC, expand=True)
    corner = tuple(int(side * c - length / 2) for c, length in zip(scene.centre, own.size))
    canvas.paste(own, corner, own)
    return canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def main(folder: Path) -> None:
    """Write subject_1.png, subject_1.txt and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for number, scene in enumerate(SCENES, start=1):
        picture = draw_scene(scene, rng).quantize(96)  # a third of the bytes, and nobody sees it
        picture.save(folder / f"subject_{number}.png", optimize=True)
        caption = f"a {{identifier}} {{class_noun}} {scene.where}\n"
        (folder / f"subject_{number}.txt").write_text(caption, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "dreambooth_jax" / "embedded" / "subject"
    parser.add_argument("folder", type=Path, nargs="?", default=default, help="where the pictures go")
    main(parser.parse_args().folder)
