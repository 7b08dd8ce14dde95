# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Masks: which pixels of a given picture are drawn anew, 1, and which are kept, 0.

picture, mask --extend--> with room around --crop_region--> what is worked on --> new pixels --paste--> picture
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32
from PIL import Image
from scipy.ndimage import gaussian_filter

from dreambooth_jax.data.pictures import Picture, Source, read_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

Mask: TypeAlias = Float32[np.ndarray, "_ _"]


class Box(NamedTuple):
    """A rectangle of pixels, as Pillow has them: right and bottom are the first that are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        """Its height and width."""
        return Size(self.bottom - self.top, self.right - self.left)


class Sides(NamedTuple):
    """Pixels to add at each side."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


def read_masks(sources: Source | Sequence[Source]) -> list[Mask]:
    """One mask or several: white is drawn anew; black is kept, and what is transparent. Of colours the mean counts.

    Args:
        sources: as those of pictures, or arrays [h, w] of uint8, bool, or real numbers in [0, 1]; [b, h, w] is several.

    Raises:
        InputError: naming what cannot be read.
    """
    shape: tuple[int, ...] = getattr(sources, "shape", ())
    several = isinstance(sources, list | tuple) or len(shape) == 4 or (len(shape) == 3 and shape[-1] not in (3, 4))
    masks = [_read_mask(one) for one in (sources if several else [sources])]
    if not masks:
        raise InputError("mask is empty: give at least one")
    return masks


def _read_mask(source: Source) -> Mask:
    if not isinstance(source, str | Path | Image.Image) and getattr(source, "ndim", 0) == 2:
        array = np.asarray(source)
        array = array.astype(np.float32) if array.dtype == bool else array
        source = np.repeat(array[..., None], 3, axis=-1)
    picture = read_picture(source, name="mask", alpha=True)
    return picture[..., :3].mean(-1) * picture[..., 3]


def transparent(picture: Picture) -> tuple[Picture, Mask]:
    """A picture with opacity -> its colours as they are stored, and where it is transparent."""
    return picture[..., :3], 1 - picture[..., 3]


def extend(picture: Picture, mask: Mask, sides: Sides) -> tuple[Picture, Mask]:
    """Room around a picture, all of it to be drawn anew; until then the nearest pixel of the edge is there."""
    rows, columns = (sides.top, sides.bottom), (sides.left, sides.right)
    return (
        np.pad(picture, (rows, columns, (0, 0)), mode="edge"),
        np.pad(mask, (rows, columns), constant_values=1),
    )


def blurred(mask: Mask, deviation: float) -> Mask:
    """With soft edges: by a Gaussian of this standard deviation in pixels, cut off after 2.5 of them as A1111 does."""
    return gaussian_filter(mask, deviation, mode="nearest", truncate=2.5) if deviation else mask


def crop_region(mask: Mask, *, padding: int, aspect: Size) -> Box:
    """The rectangle around all that is masked, and some pixels at each side, grown to an aspect where there is room.

    Raises:
        InputError: if nothing is masked.
    """
    marked = mask >= 1 / 510  # what eight bits tell from black
    if not marked.any():
        raise InputError("mask is black: nothing is to be drawn anew; white is what changes")
    height, width = mask.shape
    (top, bottom), (left, right) = (
        (max(int(lines[0]) - padding, 0), min(int(lines[-1]) + 1 + padding, most))
        for lines, most in ((np.flatnonzero(marked.any(axis)), most) for axis, most in ((1, height), (0, width)))
    )
    wanted_height = min(max(bottom - top, round((right - left) * aspect.height / aspect.width)), height)
    wanted_width = min(max(right - left, round((bottom - top) * aspect.width / aspect.height)), width)
    top, bottom = _grown(top, bottom, wanted_height, height)
    left, right = _grown(left, right, wanted_width, width)
    return Box(left, top, right, bottom)


def _grown(first: int, last: int, length: int, most: int) -> tuple[int, int]:
    """A stretch of some length around another one, moved to where there is room."""
    start = min(max(first - (length - (last - first)) // 2, 0), most - length)
    return start, start + length


def latent_mask(mask: Mask, factor: int, *, nearest: bool = False) -> Float32[np.ndarray, "h w"]:
    """1 for each latent that is drawn anew, else 0: those of which at least half of the pixels' sum is masked.

    Args:
        mask: sides are multiples of ``factor``.
        factor: pixels of a latent, along one side.
        nearest: only the upper left pixel of each counts, as in diffusers.
    """
    height, width = mask.shape
    blocks = mask.reshape(height // factor, factor, width // factor, factor)
    if nearest:
        return (blocks[:, 0, :, 0] >= 0.5).astype(np.float32)
    return (blocks.mean((1, 3)) >= 0.5).astype(np.float32)


def paste(picture: Picture, new: Picture, mask: Mask) -> Picture:
    """New pixels where the mask is 1, the picture's own where it is 0, bit for bit, and a mixture between."""
    soft = mask[..., None]
    return np.where(soft == 0, picture, np.where(soft == 1, new, soft * new + (1 - soft) * picture))
