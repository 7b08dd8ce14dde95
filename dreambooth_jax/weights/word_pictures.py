# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures that hold a new word, as A1111 shares them: PNG files with it in a text, and once more in their pixels.

    text     sd-ti-embedding: base64 of JSON, {"string_to_param": {"*": {"TORCHTENSOR": [[...]]}}, "name": "toy", ...}
    pixels   | low halves of bytes | black | the picture | black | high halves of bytes |

In the pixels the same JSON, packed by zlib, is in the four lower bits of each colour, row by row, mixed with numbers
that every file has alike; the four upper ones are decoration. So the word stays where a site takes texts out of
pictures. What is unpacked is bounded, and the pixels of large pictures are not looked at.
"""

import base64
import binascii
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.texts import SIGNATURE, read_texts
from dreambooth_jax.weights.json_files import parse_json

SUFFIX = ".png"
KEYWORD = "sd-ti-embedding"
TENSOR = "TORCHTENSOR"
LARGEST = 2**23
"""Bytes of the JSON: 75 vectors, which is what a word may have, are less than two million."""
MOST_PIXELS = 2**24
LONGEST_NAME = 200
_FACTOR, _STEP = 1664525, 1013904223
"""Of the generator that the halves are mixed with: x <- (factor x + step) mod 2³²."""


class PictureWord(NamedTuple):
    """A new word of a picture.

    Attributes:
        word: as the picture says, or its file is called.
        vectors: of it.
    """

    word: str
    vectors: Float[np.ndarray, "n d"]


def is_picture(file: Path) -> bool:
    """Whether a file is a PNG picture, and called so."""
    if file.suffix.lower() != SUFFIX or not file.is_file():
        return False
    with open(file, "rb") as stream:
        return stream.read(len(SIGNATURE)) == SIGNATURE


def read_word_picture(file: Path) -> PictureWord:
    """The word of a picture.

    Raises:
        InputError: if it is no such picture, or holds none.
    """
    text = read_texts(file).get(KEYWORD)
    packed = _of_pixels(file) if text is None else _of_text(file, text)
    if packed is None:
        raise InputError(
            f"{file} is a picture without a new word: it has neither a text {KEYWORD} nor one in its pixels, so it may "
            "have been scaled or saved anew; take the original"
        )
    return _word(file, packed)


def _word(file: Path, packed: bytes) -> PictureWord:
    """Of the JSON."""
    what = f"the new word in {file}"
    content = parse_json(packed.decode("utf-8", "replace"), what=what)
    table = content.get("string_to_param")
    tensors = [one.get(TENSOR) for one in table.values() if isinstance(one, dict)] if isinstance(table, dict) else []
    if len(tensors) != 1 or tensors[0] is None:
        raise InputError(f"{what} is not one string_to_param with a {TENSOR}, as A1111 writes it: take another copy")
    name = content.get("name")
    is_name = isinstance(name, str) and name.strip() and len(name) <= LONGEST_NAME
    return PictureWord(name if isinstance(name, str) and is_name else file.stem, _array(what, tensors[0]))


def _array(what: str, rows: Any) -> Float[np.ndarray, "n d"]:
    try:
        array = np.asarray(rows, np.float64).astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{what} is no table of numbers: take another copy") from error
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size:
        raise InputError(f"{what} has shape {list(array.shape)}, not that of vectors: take another copy")
    return array


def _of_text(file: Path, text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{file}: its text {KEYWORD} is not base64: take another copy") from error


def _of_pixels(file: Path) -> bytes | None:
    """The JSON of the pixels; None where there is none."""
    try:
        with Image.open(file, formats=("PNG",)) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as a PNG picture: take another copy") from error
    halves = _without_frame(pixels) & 15
    black = np.flatnonzero(~halves.any(axis=(0, 2)))
    if len(black) < 2:
        return None
    low, high = halves[:, : black[0]], halves[:, black[-1] + 1 :]
    if low.shape != high.shape or not 0 < low.size <= LARGEST:
        return None
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(((_unmixed(high) << 4) | _unmixed(low)).tobytes(), LARGEST + 1)
    except zlib.error:
        return None
    return content if unpacking.eof else None


def _without_frame(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "a b 3"]:
    """Without rows and columns at the edges of which no pixel has all three colours."""
    bright = np.asarray(pixels.all(axis=2), bool)
    if not bright.any():
        return pixels[:0]
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _unmixed(halves: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Halves of bytes as they were; mixing them again would do the same.

    The generator begins at 0, so that its n-th number is the step times the sum of the factor's first n powers: of
    all at once, in numbers that overflow as it does.
    """
    factors = np.full(halves.size, _FACTOR, np.uint32)
    factors[:1] = 1
    powers = np.cumprod(factors, dtype=np.uint32)
    drawn = np.cumsum(powers, dtype=np.uint32) * np.uint32(_STEP)
    return halves ^ ((drawn % 255).astype(np.uint8) & 15).reshape(halves.shape)
