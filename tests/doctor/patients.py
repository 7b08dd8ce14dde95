# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A healthy run of the embedded model, to be made ill: scenes as photos, and numbers as its pictures give them."""

from dataclasses import replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dreambooth_jax.config import Config, load_config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.doctor.looks import Looks
from dreambooth_jax.doctor.patient import Patient, Photo, Piece
from dreambooth_jax.doctor.photo_facts import facts
from dreambooth_jax.doctor.regimen import recipe_for, regimen_of

SIDE = 64
HEALTHY = Looks(
    eye="an eye",
    photos=0.8,
    nearest_photo=0.85,
    subject=0.75,
    nearest=0.8,
    subject_before=0.5,
    class_after=0.5,
    class_before=0.5,
    class_images=0.5,
    obeyed=0.9,
    obeyed_before=1.0,
    grain=0.02,
    usual_grain=0.02,
    contrast=1.0,
)


def scene(seed: int, *, side: int = 2 * SIDE) -> np.ndarray:
    """A red thing with stripes, somewhere before something."""
    r = np.random.default_rng(seed)
    ground = Image.fromarray(r.integers(0, 256, (4, 4, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(ground)
    size = side // 3
    left, top = r.integers(0, side - size, 2).tolist()
    draw.rectangle((left, top, left + size, top + size), fill=(220, 30, 30))
    for at in range(0, size, 6):
        draw.line((left, top + at, left + size, top + at), fill=(250, 240, 80), width=2)
    return np.asarray(ground)


def blurred(picture: np.ndarray) -> np.ndarray:
    """Out of focus by a twentieth of its side."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(len(picture) / 20)))


def centred(seed: int, *, side: int = 2 * SIDE) -> np.ndarray:
    """The thing in the middle of a plain ground."""
    picture = np.full((side, side, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)
    middle = slice(side // 3, side - side // 3)
    picture[middle, middle] = np.random.default_rng(1).integers(0, 256, 3)
    return picture


def photo(name: str, pixels: np.ndarray, *, prompt: str = "a sks alien") -> Photo:
    """As ``examine`` reads one."""
    height, width = pixels.shape[:2]
    return Photo(name=name, height=height, width=width, facts=facts(pixels, side=SIDE), prompt=prompt)


def photos_of(*pictures: np.ndarray) -> tuple[Photo, ...]:
    """Called 0.png, 1.png, ..."""
    return tuple(photo(f"{number}.png", pixels) for number, pixels in enumerate(pictures))


def patient(*words: str, looks: Looks | None = HEALTHY, **changes) -> Patient:
    """Five photos, the quick start's settings but for those given, and all of its steps."""
    config = settings(words)
    concept = concepts_of(config)[0]
    regimen = regimen_of(config, prior=concept.weight)
    fields = {
        "concept": concept,
        "regimen": regimen,
        "recipe": recipe_for(regimen, embedded=config.model.path == "embedded"),
        "steps": regimen.steps,
        "side": SIDE,
        "crop": config.data.crop,
        "photos": photos_of(*(scene(seed) for seed in range(5))),
        "pieces": (Piece(text="sks</w>", common=False),),
        "looks": looks,
    }
    return Patient(**(fields | changes))


@cache
def settings(words: tuple[str, ...]) -> Config:
    """The quick start's, but for those given."""
    return load_config("quickstart", list(words))


def ill(**looks: float) -> Looks:
    """Some numbers of its pictures are others."""
    return replace(HEALTHY, **looks)
