# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Small pictures for the tests, as Pillow images and as the bytes of files."""

from io import BytesIO

import numpy as np
from PIL import Image


def quadrants(width: int = 64, height: int = 32) -> Image.Image:
    """Red, green / blue, yellow: no rotation or mirroring leaves it as it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 0)
    return Image.fromarray(pixels)


def noise(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth random picture, unlike any other seed's."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def to_bytes(image: Image.Image, kind: str, **options) -> bytes:
    """The picture's file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def array(image: Image.Image) -> np.ndarray:
    """Its pixels, in a type that can be subtracted."""
    return np.asarray(image).astype(int)
