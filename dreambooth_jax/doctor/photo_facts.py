# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What photos are like, by their pixels alone: sharpness, where their detail lies, which of them look the same."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SIDE = 32
"""Of the thumbnails that are compared."""


class PhotoFacts(NamedTuple):
    """Of one photo.

    Attributes:
        sharpness: power of the finest detail, as a share of all contrast: 0 for a plain or blurred picture, about 1.25
            for noise.
        middle: of its detail, (down, across) in [0, 1].
        thumbnail: grey, less its mean, of length 1; zeros for a plain picture.
    """

    sharpness: float
    middle: tuple[float, float]
    thumbnail: Float[np.ndarray, "n"]


def facts(picture: UInt8[np.ndarray, "h w 3"], *, side: int) -> PhotoFacts:
    """Of a picture, as a run sees it whose shorter side has so many pixels.

    Args:
        picture: upright, in RGB.
        side: pixels that the shorter side is scaled to, if it is longer.
    """
    image = Image.fromarray(picture).convert("L")
    scale = min(1.0, side / min(image.size))
    size = (max(2, round(image.width * scale)), max(2, round(image.height * scale)))
    grey = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float64)
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64).ravel()
    small -= small.mean()
    length = np.linalg.norm(small)
    return PhotoFacts(_sharpness(grey), _middle(grey), small / length if length else small)


def _sharpness(grey: Float[np.ndarray, "h w"]) -> float:
    """Mean square of the discrete Laplacian over 16 times the variance."""
    laplacian = (
        grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
        if min(grey.shape) > 2
        else np.zeros(1)
    )
    return float(np.mean(laplacian**2) / (16 * grey.var())) if grey.var() else 0.0


def _middle(grey: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Centre of gravity of the squared gradient; the picture's own middle if it is plain."""
    down, across = np.gradient(grey)
    power = down**2 + across**2
    if not power.sum():
        return 0.5, 0.5
    places = np.meshgrid(*((np.arange(n) + 0.5) / n for n in grey.shape), indexing="ij")
    return float(np.average(places[0], weights=power)), float(np.average(places[1], weights=power))


def likeness(of: Sequence[PhotoFacts]) -> Float[np.ndarray, "n"]:
    """Correlation of the thumbnails of all pairs, in the order of ``itertools.combinations``."""
    return np.array([float(a.thumbnail @ b.thumbnail) for a, b in combinations(of, 2)])
