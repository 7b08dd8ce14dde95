# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Empty pictures and duplicates are told from good ones."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.prepare.screening import is_black, is_duplicate, signature
from tests.data.pictures import noise, to_bytes


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def saved_as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(BytesIO(to_bytes(image, "JPEG", quality=quality)))


@pytest.mark.parametrize("colour", ["black", "white", "gray", "#7f8081", "red"])
def test_one_colour_is_no_picture(colour):
    flat = Image.new("RGB", (64, 48), colour)
    assert is_black(pixels(flat))
    assert is_black(pixels(saved_as_jpeg(flat, 75)))
    grain = np.random.default_rng(0).integers(-1, 2, (48, 64, 3))
    assert is_black((pixels(flat) + grain).clip(0, 255).astype(np.uint8))


def test_dark_and_plain_pictures_are_pictures():
    assert not is_black(pixels(noise(0)))
    assert not is_black(pixels(noise(0)) // 16)  # a night
    drawing = Image.new("RGB", (64, 64), "white")
    drawing.paste("black", (30, 30, 34, 34))
    assert not is_black(pixels(drawing))
    tinted = np.zeros((64, 64, 3), np.uint8)
    tinted[32:, :, 2] = 20
    assert not is_black(tinted)


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_is_its_own_duplicate_however_it_was_saved(seed):
    image = noise(seed, 96, 96)
    original = signature(pixels(image))
    assert is_duplicate(original, signature(pixels(image)))
    assert is_duplicate(original, signature(pixels(saved_as_jpeg(image, 80))))
    touched = pixels(image).copy()
    touched[5, 5] = 255
    assert is_duplicate(original, signature(touched))


def test_other_pictures_are_not():
    prints = [signature(pixels(noise(seed))) for seed in range(12)]
    prints += [signature(pixels(noise(0)).copy()[:, ::-1]), signature(pixels(noise(0))[..., ::-1].copy())]
    for i, one in enumerate(prints):
        for other in prints[:i]:
            assert not is_duplicate(one, other)
            assert not is_duplicate(other, one)
