# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sheets of small pictures, bare or each over its caption."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

GAP = 4
LINES = 4
"""Of a caption; the longest is about seventy letters."""
FONT_SIZE = 10


def save(file: Path, pictures: UInt8[np.ndarray, "n h w 3"], *, columns: int) -> None:
    """Pictures in rows of ``columns``."""
    _sheet(pictures, columns, below=0).save(file, optimize=True)


def save_captioned(
    file: Path, pictures: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str], *, columns: int
) -> None:
    """Pictures at twice their size, each over its caption."""
    doubled = pictures.repeat(2, axis=1).repeat(2, axis=2)
    below = LINES * (FONT_SIZE + 3)
    sheet = _sheet(doubled, columns, below=below)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for i, caption in enumerate(captions):
        x, y = _corner(i, doubled.shape[1:], columns, below)
        text = textwrap.fill(caption, doubled.shape[2] // 5)
        pen.multiline_text((x, y + doubled.shape[1]), text, fill="black", font=font, spacing=1)
    sheet.quantize(256).save(file, optimize=True)  # it lies in a repository


def _corner(number: int, shape: tuple[int, ...], columns: int, below: int) -> tuple[int, int]:
    height, width = shape[0] + below + GAP, shape[1] + GAP
    return number % columns * width, number // columns * height


def _sheet(pictures: np.ndarray, columns: int, *, below: int) -> Image.Image:
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + below + GAP) - GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), _corner(i, picture.shape, columns, below))
    return sheet
