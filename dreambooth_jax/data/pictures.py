# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures that a user gives to draw from: files, Pillow's, or arrays, as float32 in [0, 1] of one size.

They are not rounded to eight bits on the way: what was given as real numbers arrives as it is where no size changes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32
from PIL import Image

from dreambooth_jax.data.images import decode, upright_rgb
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

Source: TypeAlias = Any
"""A path, a Pillow picture, or an array [h, w, 3] or [h, w, 4] of uint8, or of real numbers in [0, 1]."""
Rectangle: TypeAlias = tuple[float | int, float | int, float | int, float | int]
"""Left, top, right, bottom, in pixels."""
Picture: TypeAlias = Float32[np.ndarray, "_ _ _"]
"""Height, width, channels: colours in [0, 1], opacity where it is kept."""


def read_pictures(sources: Source | Sequence[Source], *, name: str = "image", alpha: bool = False) -> list[Picture]:
    """One picture or several of one size.

    Args:
        sources: one, or a list, a tuple or an array [b, h, w, 3] of several.
        name: what errors call it.
        alpha: keep the fourth channel, 1 where a picture has none; otherwise what is transparent lies on white.

    Raises:
        InputError: naming what cannot be read, or sizes that differ.
    """
    several = isinstance(sources, list | tuple) or getattr(sources, "ndim", 0) == 4
    pictures = [read_picture(one, name=name, alpha=alpha) for one in (sources if several else [sources])]
    if not pictures:
        raise InputError(f"{name} is empty: give at least one picture")
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise InputError(f"{name}: pictures of one call need one size, these are {shown}")
    return pictures


def read_picture(source: Source, *, name: str = "image", alpha: bool = False) -> Picture:
    """A picture [h, w, 3], or [h, w, 4] with ``alpha``; the rest as :func:`read_pictures`."""
    if isinstance(source, str | Path):
        return _of_bytes(decode(source, keep_alpha=alpha))
    if isinstance(source, Image.Image):
        return _of_bytes(upright_rgb(source, keep_alpha=alpha))
    if not hasattr(source, "shape"):
        raise InputError(f"{name} is a {type(source).__name__}: give a file, a Pillow picture or an array [h, w, 3]")
    return _of_array(np.asarray(source), name, alpha)


def picture_size(picture: Picture, *, height: int | None, width: int | None, factor: int, most: int) -> Size:
    """The size, in pixels, that is drawn from a picture: as told, or its own, made to fit the autoencoder.

    Args:
        picture: of any size.
        height, width: as told; one alone keeps the aspect.
        factor: both are multiples of it; those that are not told are rounded down to one.
        most: the longest side, in pixels.

    Raises:
        InputError: if the picture's own size is larger or smaller than can be drawn.
    """
    own = Size(*picture.shape[:2])
    if height and width:
        return Size(height, width)
    scale = height / own.height if height else width / own.width if width else 1.0
    sides = [told or round(scale * side, 6) // factor * factor for told, side in zip((height, width), own)]
    if min(sides) < factor or max(sides) > most:
        raise InputError(
            f"image is {own.width}x{own.height}: give the width and height to draw, multiples of {factor} up to {most}"
        )
    return Size(*(int(side) for side in sides))


def middle(picture: Picture, size: Size) -> Picture:
    """The middle of a picture, no smaller than that, pixel by pixel."""
    top, left = (picture.shape[0] - size.height) // 2, (picture.shape[1] - size.width) // 2
    return picture[top : top + size.height, left : left + size.width]


def covering(picture: Picture, size: Size) -> Picture:
    """The largest rectangle of the wanted aspect in the middle of a picture, resampled (Lanczos) to a size."""
    own = Size(*picture.shape[:2])
    if own == size:
        return picture
    width = min(own.width, own.height * size.width / size.height)
    height = min(own.height, own.width * size.height / size.width)
    left, top = (own.width - width) / 2, (own.height - height) / 2
    return resampled(picture, size, box=(left, top, min(left + width, own.width), min(top + height, own.height)))


def resampled(picture: Picture, size: Size, *, box: Rectangle | None = None) -> Picture:
    """A picture, or its rectangle ``box`` (left, top, right, bottom), in so many pixels, by Lanczos-3."""
    channels = (
        Image.fromarray(np.ascontiguousarray(picture[..., channel])).resize(
            (size.width, size.height), Image.Resampling.LANCZOS, box=box
        )
        for channel in range(picture.shape[-1])
    )
    return np.stack([np.asarray(channel) for channel in channels], axis=-1).clip(0, 1)


def _of_bytes(image: Image.Image) -> Picture:
    return np.asarray(image, np.float32) / np.float32(255)


def _of_array(array: np.ndarray, name: str, alpha: bool) -> Picture:
    fine = array.ndim == 3 and array.shape[-1] in (3, 4) and 0 not in array.shape
    if not fine:
        raise InputError(f"{name} has the shape {array.shape}: must be [height, width, 3], or 4 with transparency")
    if array.dtype == np.uint8:
        return _of_bytes(upright_rgb(Image.fromarray(np.ascontiguousarray(array)), keep_alpha=alpha))
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} is of {array.dtype}: must be uint8, or real numbers in [0, 1]")
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{name} has values from {array.min():g} to {array.max():g}: real numbers must be in [0, 1]")
    array = array.astype(np.float32)
    colours, opacity = array[..., :3], array[..., 3:] if array.shape[-1] == 4 else np.ones_like(array[..., :1])
    return np.concatenate([colours, opacity], axis=-1) if alpha else colours * opacity + (1 - opacity)
