# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What ControlNets are shown of a photo or a drawing: edges, scribbles, depth as given. White on black.

``canny`` is Canny's method (1986) with the choices of OpenCV's function, whose maps the published networks were trained
on: Sobel gradients, |gx| + |gy|, thinning along one of four directions, and hysteresis.

1. Blur by a Gaussian, if asked for.
2. gx, gy by Sobel's 3 × 3 kernels, edges repeated; of several colours the one with the largest |gx| + |gy|.
3. A pixel stays if it is larger than its neighbours on both sides along the gradient: across, if |gy| is below
   tan 22.5° |gx|, upright, if it is above tan 67.5° |gx|, else along the diagonal. Of two that are equal, across and
   upright, the first.
4. Of those above the low threshold, what is above the high one, and all that is joined to it by eight neighbours.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from dreambooth_jax.errors import InputError

Photo: TypeAlias = UInt8[np.ndarray, "h w 3"]
Map: TypeAlias = UInt8[np.ndarray, "h w 3"]

_TAN_22 = 13573
"""tan 22.5° in units of 2⁻¹⁵: with whole numbers no direction depends on rounding."""


def canny(photo: Photo, *, low: int | float = 100, high: int | float = 200, sigma: float = 0.0) -> Map:
    """Edges of a photo.

    Args:
        photo: of any size.
        low, high: thresholds of |gx| + |gy|, which is at most 2040.
        sigma: of the Gaussian blur before, in pixels; 0 is none, as in OpenCV.

    Raises:
        InputError: if the thresholds are not in order.
    """
    if not 0 <= low <= high:
        raise InputError(f"canny thresholds are {low:g} and {high:g}: the first must not be above the second")
    levels = np.asarray(photo, np.float64)
    if sigma > 0:
        levels = np.rint(ndimage.gaussian_filter(levels, (sigma, sigma, 0), mode="nearest"))
    return _shown(_joined(*_thinned(*_gradients(levels.astype(np.int64)), low=low), high=high))


def scribble(drawing: Photo, *, threshold: int = 127) -> Map:
    """Lines of a drawing, white on black whichever it is on: what is rarer, of dark and light, is line.

    Args:
        drawing: of any size.
        threshold: levels above it are light.
    """
    light = np.asarray(Image.fromarray(drawing).convert("L")) > threshold
    return _shown(light if light.mean() <= 0.5 else ~light)


def as_given(picture: Photo) -> Map:
    """A map that is one already, such as depth, where what is near is white."""
    return picture


MAPS: dict[str, Callable[[Photo], Map]] = {"canny": canny, "scribble": scribble, "depth": as_given}
"""By the names that the command line knows."""


def _gradients(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's along x and y, [h, w], each of the colour where they are largest."""
    p = np.pad(levels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth_rows = p[:-2] + 2 * p[1:-1] + p[2:]
    smooth_columns = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    gx = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    gy = smooth_columns[2:] - smooth_columns[:-2]
    largest = (np.abs(gx) + np.abs(gy)).argmax(axis=-1)[..., None]
    return np.take_along_axis(gx, largest, axis=-1)[..., 0], np.take_along_axis(gy, largest, axis=-1)[..., 0]


def _thinned(gx: np.ndarray, gy: np.ndarray, *, low: int | float) -> tuple[np.ndarray, np.ndarray]:
    """(pixels above the low threshold that are ridges, |gx| + |gy|)."""
    size = np.abs(gx) + np.abs(gy)
    p = np.pad(size, 1)

    def beside(down: int, right: int) -> np.ndarray:
        return p[1 + down : p.shape[0] - 1 + down, 1 + right : p.shape[1] - 1 + right]

    x, y = np.abs(gx) * _TAN_22, np.abs(gy) << 15
    across, upright = y < x, y > x + (np.abs(gx) << 16)
    falling = (gx < 0) == (gy < 0)  # the gradient points down to the right, or up to the left
    ridge = np.select(
        [across, upright, falling],
        [
            (size > beside(0, -1)) & (size >= beside(0, 1)),
            (size > beside(-1, 0)) & (size >= beside(1, 0)),
            (size > beside(-1, -1)) & (size > beside(1, 1)),
        ],
        (size > beside(-1, 1)) & (size > beside(1, -1)),
    )
    return ridge & (size > low), size


def _joined(ridge: Bool[np.ndarray, "h w"], size: np.ndarray, *, high: int | float) -> Bool[np.ndarray, "h w"]:
    """Ridges that hold a pixel above the high threshold."""
    labels, count = ndimage.label(ridge, structure=np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[labels[ridge & (size > high)]] = True
    return strong[labels]


def _shown(white: Bool[np.ndarray, "h w"]) -> Map:
    return np.repeat(np.where(white, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
