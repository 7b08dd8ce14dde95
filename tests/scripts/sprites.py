# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A folder of sprites like the real one: discs and boxes in two looks."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS = {"red": (206, 44, 48), "blue": (46, 98, 204)}


def png(shape: str, colour: str) -> bytes:
    picture = Image.new("RGBA", (96, 96))
    draw = getattr(ImageDraw.Draw(picture), shape)
    draw((8, 8, 88, 88), fill=(*COLOURS[colour], 255))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def row(noun: str, style: str, colour: str, split: str = "train") -> dict:
    return {
        "image": png({"ball": "ellipse", "box": "rectangle"}[noun], colour),
        "name": f"big {noun}" if split == "heldout" else noun,
        "noun": noun,
        "super": "object",
        "style": style,
        "label": noun,
        "colors": [colour],
        "color_shares": [1.0],
        "split": split,
        "tier": 1,
        "subject": "robot" if split == "heldout" else "",
    }


def write(folder: Path, *more: dict) -> Path:
    """``folder`` with sprites.parquet (``more`` rows too), ATTRIBUTION.txt and LICENCES."""
    rows = [row(noun, style, colour) for noun in ("ball", "box") for style in ("flat", "3d") for colour in COLOURS]
    rows += [row("box", "flat", "red", split="heldout"), *more]
    (folder / "LICENCES").mkdir(parents=True)
    (folder / "LICENCES" / "MIT.txt").write_text("MIT")
    (folder / "ATTRIBUTION.txt").write_text("by us")
    pq.write_table(pa.Table.from_pylist(rows), folder / "sprites.parquet")
    return folder
