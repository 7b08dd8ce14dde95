# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The drawings that pictures are composed of: one row of ``sprites.parquet`` each."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from .colours import Share

_COLUMNS = ("image", "name", "noun", "super", "style", "label", "colors", "color_shares", "split", "tier", "subject")


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """A drawing of one thing."""

    image: bytes
    """PNG with alpha."""
    name: str
    """What it is, exactly: golden retriever."""
    noun: str
    """What it is: dog."""
    above: str
    """What that is: animal."""
    style: str
    wears_hats: bool
    main_colour: Share | None
    subject: str
    """Whose instance picture it is, if any's."""


def read_sprites(
    folder: Path,
    *,
    split: str = "train",
    tiers: Sequence[int] = (1, 2),
    nouns: Sequence[str] = (),
    styles: Sequence[str] = (),
) -> list[Sprite]:
    """Those of ``folder / sprites.parquet`` that are asked for; no ``nouns`` or ``styles`` means any."""
    rows = pq.read_table(folder / "sprites.parquet", columns=list(_COLUMNS)).to_pylist()
    chosen = [
        _sprite(row)
        for row in rows
        if row["split"] == split
        and row["tier"] in tiers
        and (not nouns or row["noun"] in nouns)
        and (not styles or row["style"] in styles)
    ]
    if not chosen:
        raise SystemExit(f"{folder} has no sprite of split {split!r} with the nouns and styles of the settings")
    return chosen


def _sprite(row: dict) -> Sprite:
    is_face = row["label"].endswith("face") or row["style"] in ("round", "square")
    return Sprite(
        image=row["image"],
        name=row["name"],
        noun=row["noun"],
        above=row["super"],
        style=row["style"],
        wears_hats=row["super"] == "animal" and is_face,
        main_colour=(row["colors"][0], row["color_shares"][0]) if row["colors"] else None,
        subject=row["subject"] or "",
    )


def weights(sprites: Sequence[Sprite], exponent: float) -> np.ndarray:
    """Chances of being drawn: (size of the class)^exponent, so that large classes do not drown small ones."""
    sizes = Counter(sprite.noun for sprite in sprites)
    chances = np.array([float(sizes[sprite.noun]) ** exponent for sprite in sprites])
    return chances / chances.sum()


@lru_cache(maxsize=20_000)
def decode(png: bytes) -> Image.Image:
    """The drawing, RGBA. Shared: not to be changed in place."""
    return Image.open(io.BytesIO(png)).convert("RGBA")
