# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A picture to begin with, what is painted on it, and how far it is to grow: kept as files of our own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dreambooth_jax.app.uploads import Bounds, read
from dreambooth_jax.data.images import CENTER, cut
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

SIDES = ("outpaint_left", "outpaint_top", "outpaint_right", "outpaint_bottom")
MOST_PERCENT = 200
STEP = 8
"""Sides of what is drawn are multiples of so many pixels."""
MOST_LAYERS = 8


@dataclass(frozen=True)
class Sent:
    """What the page sends.

    Attributes:
        picture: a file where the server has put it, or its bytes; None where there is none.
        painted: likewise, pictures of the same size: what is not transparent of one of them is drawn anew.
        percent: how far to grow at the left, top, right and bottom, of the picture's width or height.
    """

    picture: Path | bytes | None = None
    painted: Sequence[Path | bytes] = ()
    percent: tuple[float, float, float, float] = (0, 0, 0, 0)


class Opened(NamedTuple):
    """What was sent, decoded.

    Attributes:
        picture: RGB.
        mask: of the same size, white where something is painted; None where nothing is.
    """

    picture: Image.Image
    mask: Image.Image | None


def opened(sent: Sent, bounds: Bounds) -> Opened | None:
    """Decode what is sent; None if there is nothing to be seen in it, as in an editor that nobody has touched.

    Args:
        sent: what is sent.
        bounds: of each file.

    Raises:
        InputError: if one is no picture, or too large; if something is painted on none, or none is to grow.
    """
    if not all(math.isfinite(one) and 0 <= one <= MOST_PERCENT for one in sent.percent):
        raise InputError(f"a picture grows by 0 to {MOST_PERCENT} percent on a side")
    sheet = None if sent.picture is None else read(sent.picture, "the picture", bounds, keep_alpha=True)
    if sent.picture is None or sheet is None or not np.asarray(sheet)[..., 3].any():
        if any(sent.percent):
            raise InputError("a picture is to grow, but there is none: load one to begin with")
        if sheet and _mask(sent.painted, Size(sheet.height, sheet.width), bounds):
            raise InputError("there is no picture under what is painted: load one to begin with")
        return None
    return Opened(
        read(sent.picture, "the picture", bounds), _mask(sent.painted, Size(sheet.height, sheet.width), bounds)
    )


def keep(
    start: Opened | None, percent: Sequence[float], folder: Path, *, size: Size, told: Mapping[str, Any], most_side: int
) -> dict[str, Any]:
    """Keep a picture, and say so to ``sample``.

    Args:
        start: the picture, if there is one.
        percent: of :class:`Sent`.
        folder: for ``start.png`` and ``mask.png``; it is made.
        size: that the model was made for: a picture is reduced or enlarged to its area, unless ``told`` has a size.
        told: the other settings.
        most_side: pixels of the longest side that is drawn.

    Returns:
        ``image`` and ``mask``, and by how many pixels it grows; empty if there is no picture.

    Raises:
        InputError: if it would grow too large; if there is a strength, but no picture.
    """
    if start is None:
        if told.get("strength") is not None:
            raise InputError("the strength is how much of a picture changes: load one to begin with")
        return {}
    own = Size(start.picture.height, start.picture.width)
    keeps = any(told.get(name) is not None for name in ("width", "height", "mask_padding"))
    wanted = _within(own, most_side) if keeps else of_area(own, size, most_side)
    told_size(wanted, told, most_side)
    left, top, right, bottom = _pixels(percent, wanted)
    if max(wanted.width + left + right, wanted.height + top + bottom) > most_side:
        raise InputError(f"the picture would grow to more than {most_side} pixels on a side: let it grow less")
    folder.mkdir(parents=True, exist_ok=True)
    kept = {}
    for name, image in (("image", start.picture), ("mask", start.mask)):
        if image is not None:
            kept[name] = str(folder / f"{name}.png")
            Image.fromarray(cut(image, size=wanted, view=CENTER)).save(kept[name])
    return kept | {name: pixels for name, pixels in zip(SIDES, (left, top, right, bottom)) if pixels}


def _mask(painted: Sequence[Path | bytes], size: Size, bounds: Bounds) -> Image.Image | None:
    """White where something is painted; None where nothing is."""
    if len(painted) > MOST_LAYERS:
        raise InputError(f"{len(painted)} layers are painted on: at most {MOST_LAYERS}")
    mask = np.zeros(size, np.uint8)
    for layer in painted:
        image = read(layer, "what is painted", bounds, keep_alpha=True)
        if (image.height, image.width) != size:
            raise InputError(f"what is painted is {image.width}x{image.height}, the picture {size.words}")
        mask = np.maximum(mask, np.asarray(image)[..., 3])
    return Image.fromarray(mask) if mask.any() else None


def _pixels(percent: Sequence[float], size: Size) -> list[int]:
    along = (size.width, size.height, size.width, size.height)
    return [round(share / 100 * side / STEP) * STEP for share, side in zip(percent, along)]


def told_size(own: Size, told: Mapping[str, Any], most_side: int) -> Size | None:
    """The height and width that are told, of which one alone keeps the shape of a picture; None where neither is.

    Raises:
        InputError: if a side that is not told would be longer than ``most_side``.
    """
    height, width = told.get("height"), told.get("width")
    if not (height or width):
        return None
    scale = height / own.height if height else width / own.width if width else 1.0
    found = Size(height or _in_steps(scale * own.height), width or _in_steps(scale * own.width))
    if max(found) > most_side:
        raise InputError(f"the picture would be {found.words} with that size: at most {most_side} pixels on a side")
    return found


def _in_steps(pixels: float) -> int:
    return max(round(pixels / STEP), 1) * STEP


def of_area(own: Size, size: Size, most_side: int) -> Size:
    """The aspect of one with the area of the other, in multiples of ``STEP`` and no longer than that on a side."""
    scale = math.sqrt(size.height * size.width / (own.height * own.width))
    return Size(*(min(_in_steps(scale * side), most_side) for side in own))


def _within(own: Size, most_side: int) -> Size:
    """No longer than that on a side."""
    scale = min(1.0, most_side / max(own))
    return Size(*(max(int(scale * side), 1) for side in own))
