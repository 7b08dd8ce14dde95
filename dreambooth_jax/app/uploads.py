# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Photos that somebody sends: decoded as the command line does, within bounds, and kept under names of our own."""

import secrets
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dreambooth_jax.data.images import crop_resize, decode, full_size
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

PREVIEW = 192
"""Pixels of the longer side of what is shown."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Of what one person sends at once."""

    files: int = 30
    megabytes: int = 20
    """Of one file."""
    megapixels: int = 50
    """Of one picture."""


def read_all(sent: Sequence[str | Path], bounds: Bounds = Bounds()) -> list[Image.Image]:
    """Photos, upright.

    Args:
        sent: files where the server has put them; their names are told nobody.
        bounds: of number and size.

    Raises:
        InputError: if there is none, or too many, or one is too large, damaged or no picture.
    """
    if not 0 < len(sent) <= bounds.files:
        raise InputError(f"photos: there are {len(sent)}, send 1 to {bounds.files}")
    return [read(Path(file), f"photo {number}", bounds) for number, file in enumerate(sent, 1)]


def keep(pictures: Sequence[Image.Image], folder: Path, *, captions: Sequence[str] = ()) -> Path:
    """Write photos as PNG, without their metadata, into a new folder within ``folder``, which is returned.

    Args:
        pictures: the photos.
        folder: of their owner.
        captions: of each, empty where it has none.
    """
    place = folder / secrets.token_hex(8)
    place.mkdir(parents=True)
    for number, (picture, caption) in enumerate(zip(pictures, captions or [""] * len(pictures), strict=True), 1):
        picture.save(place / f"photo_{number:02d}.png")
        if caption:
            (place / f"photo_{number:02d}.txt").write_text(caption, encoding="utf-8")
    return place


def preview(picture: Image.Image, *, size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """What training sees of a photo, reduced: the largest part in the middle that has the shape of ``size``."""
    share = PREVIEW / max(size)
    return crop_resize(picture, size=Size(*(max(1, round(share * side)) for side in size)))


def read(file: Path | bytes, name: str, bounds: Bounds, *, keep_alpha: bool = False) -> Image.Image:
    """A picture as the command line decodes it.

    Args:
        file: where the server has put it, or its bytes.
        name: what errors call it.
        bounds: of its size.
        keep_alpha: RGBA; otherwise what is transparent lies on white.

    Raises:
        InputError: if it is too large, damaged or no picture.
    """
    if (len(file) if isinstance(file, bytes) else file.stat().st_size) > bounds.megabytes * 1_000_000:
        raise InputError(f"{name}: more than {bounds.megabytes} MB; reduce it first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on sizes below its limit
            size = full_size(file)
    except Exception:  # decoders raise whatever they stumble over; decode says what it is
        size = Size(0, 0)
    if size.height * size.width > bounds.megapixels * 1_000_000:
        raise InputError(f"{name}: more than {bounds.megapixels} megapixels; reduce it first")
    return decode(file, name=name, keep_alpha=keep_alpha)
