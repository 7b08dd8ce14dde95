# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tiny runs: five drawn photos, a random model of a few hundred kilobytes, a handful of steps."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dreambooth_jax.config import Config, load_config

MODEL = Path(__file__).parent / "fixtures" / "legacy_flax_sd15"


def draw_photos(folder: Path, n: int = 5) -> Path:
    """Ovals on plain grounds."""
    folder.mkdir(parents=True, exist_ok=True)
    r = np.random.default_rng(0)
    for i in range(n):
        picture = Image.new("RGB", (60 + 10 * i, 50), tuple(r.integers(0, 255, 3).tolist()))
        ImageDraw.Draw(picture).ellipse((10 + i, 10, 40, 40), fill=(250, 20, 40))
        picture.save(folder / f"{i}.png")
    return folder


def tiny_config(root: Path, *overrides: str) -> Config:
    """Six steps at 16 pixels; photos are drawn where they are not there."""
    photos = root / "photos"
    if not photos.exists():
        draw_photos(photos)
    return load_config(
        None,
        [
            f"run_dir={root / 'run'}",
            f"model.path={MODEL}",
            f"data.instance_images={photos}",
            "data.class_noun=dog",
            "data.resolution=16",
            "prior.num_images=6",
            "prior.steps=2",
            "prior.batch_size=1",
            f"prior.class_images={root / 'class'}",
            "optimizer.learning_rate=1e-3",
            "train.steps=6",
            "train.log_every=1",
            "train.batch_size=4",
            "checkpoint.every=3",
            "checkpoint.keep_last=9",
            "samples.every=0",
            *overrides,
        ],
    )
