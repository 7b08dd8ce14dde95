# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Subjects that the embedded model was not pretrained on, and their few pictures.

Eight are drawings that the set of sprites holds out (a concept, or one designer's drawings of it); the ninth is the
creature of the quick start, drawn by us. For a confirmation, when all is chosen, there are other designers' drawings of
the same concepts and more. Instance picture i of a subject depends on its name and i alone.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from embedded import scenes
from embedded.compose import paste
from embedded.sprites import Sprite, decode, read_sprites
from jaxtyping import UInt8
from PIL import Image

from dreambooth_jax.evaluation.drawn_scenes import PLACES

CLASS_NOUNS = {
    "poodle": "dog",
    "parrot": "bird",
    "pickup_truck": "truck",
    "teddy_bear": "bear",
    "backpack": "backpack",
    "latte_cup": "cup",
    "robot": "robot",
    "vintage_tv": "television",
}
DRAWN = "alien"
"""The creature of ``scripts/draw_subject.py``."""
_WIDE = ("on the right", "at the top")
"""Places of instance pictures; what is asked of the model is another (``scores``)."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing to learn."""

    name: str
    class_noun: str
    views: Sequence[Image.Image]
    """RGBA, upright."""

    def picture(self, index: int, *, size: int = 64) -> tuple[UInt8[np.ndarray, "s s 3"], str]:
        """(instance picture ``index``, where it is): other backgrounds, angles, mirror images; the third and the fifth
        from further off, and not in the middle."""
        rng = np.random.default_rng((zlib.crc32(self.name.encode()), index))
        canvas, where = scenes.background(rng, 2 * size, plain=0.5, patterned=0.15)
        (x, y), scale, wander = (0.5, 0.5), rng.uniform(0.62, 0.9), 0.07
        if index and index % 2 == 0:
            place = str(rng.choice(_WIDE))
            (x, y), scale, wander, where = PLACES[place], rng.uniform(0.42, 0.55), 0.03, f"{place} {where}"
        canvas = paste(
            canvas,
            self.views[index % len(self.views)],
            scale,
            (x + rng.uniform(-wander, wander), y + rng.uniform(-wander, wander)),
            angle=rng.normal(0, 8),
            mirror=bool(index % 2) and len(self.views) == 1,
        )
        return np.asarray(canvas.resize((size, size), Image.Resampling.BOX)), where


def held_out(folder: Path) -> list[Subject]:
    """The subjects of a folder of sprites, in the order of :data:`CLASS_NOUNS`."""
    sprites = [sprite for sprite in read_sprites(folder, split="heldout", tiers=(1, 2, 3)) if sprite.subject]
    return [
        Subject(name=name, class_noun=noun, views=[decode(sprite.image) for sprite in own])
        for name, noun in CLASS_NOUNS.items()
        if (own := [sprite for sprite in sprites if sprite.subject == name])
    ]


def confirming(folder: Path) -> list[Subject]:
    """One more drawing of each concept that is held out; of several designers' the first by style.

    The rule was made, and the settings were final, before anything was measured of them.
    """
    sprites = [sprite for sprite in read_sprites(folder, split="heldout", tiers=(1, 2, 3)) if not sprite.subject]
    first: dict[str, Sprite] = {}
    for sprite in sorted(sprites, key=lambda one: (one.name, one.style)):
        first.setdefault(sprite.name, sprite)
    return [
        Subject(name=f"{sprite.style} {name}".replace(" ", "_"), class_noun=sprite.noun, views=[decode(sprite.image)])
        for name, sprite in first.items()
    ]


def drawn() -> Subject:
    """The quick start's creature, looking left, ahead and right."""
    import draw_subject

    views = [draw_subject.creature(192, glance) for glance in (0.0, 0.8, -0.8)]
    return Subject(name=DRAWN, class_noun="alien", views=views)


def spoken(name: str) -> str:
    """A subject's name for people."""
    return name.replace("_", " ")


def write_instances(subject: Subject, folder: Path, *, count: int, words: str = "a {identifier} {class_noun}") -> None:
    """``count`` pictures beside their captions, which are ``words`` and where the subject is."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture, where = subject.picture(index)
        Image.fromarray(picture).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"{words} {where}\n", encoding="utf-8")
