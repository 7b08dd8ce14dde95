# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""PNG files that say how they were made, and what to do with those that say too much."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.ours import texts_of
from dreambooth_jax.size import Size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Text that may say how a photo is turned.
ABOUT_THE_PHOTO = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")


def without_text(data: bytes) -> bytes:
    """A PNG file without text chunks, but for what cameras say; any other file as it is.

    Web UIs keep whole workflows in them, and decoders refuse a picture whose text unpacks to more than some limit.
    """
    if not data.startswith(SIGNATURE):
        return data
    parts, start = [SIGNATURE], len(SIGNATURE)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind, content = data[start + 4 : start + 8], data[start + 8 : start + 40]
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or content.startswith(ABOUT_THE_PHOTO):
            parts.append(data[start:end])
        start = end
    return b"".join([*parts, data[start:]])


def save_png(path: str | Path, image: UInt8[np.ndarray, "h w 3"], settings: Mapping[str, Any] | None = None) -> None:
    """Write a picture at once or not at all.

    Args:
        path: where to; its folder is made.
        image: uint8 RGB.
        settings: prompt, seed, steps, ...: the texts of :func:`dreambooth_jax.metadata.ours.texts_of`, Latin-1 where
            that holds them (tEXt), else UTF-8 (iTXt).

    Raises:
        InputError: if it cannot be written.
    """
    path = Path(path)
    info = PngInfo()
    for keyword, text in texts_of(settings, Size(*image.shape[:2])).items() if settings else ():
        info.add_text(keyword, text)
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(unfinished, format="PNG", pnginfo=info)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
