# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Many pictures of each prompt, in batches, each saved when it is made, next to those that are there already.

samples/000-seed0.png  000-seed1.png  001-seed0.png ...  grid.png          a first call with two prompts
        002-seed0.png  002-seed1.png ...                 grid-2.png        the next one
"""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax.data.images import decode
from dreambooth_jax.data.png import save_png
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.samples import SampleSettings
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.run import OnStep
from dreambooth_jax.trees import Tree


class Place(NamedTuple):
    """Where a picture was made. In a batch of another size its last bits may differ.

    Attributes:
        batch: how many were made at once.
        position: number of the picture, or of the first of several.
    """

    batch: int
    position: int = 0


class Batch(NamedTuple):
    """Some pictures of one prompt.

    Attributes:
        row: number of the prompt, from 0.
        seeds: of each picture.
        pictures: the pictures.
        place: where they were made.
        made: just now; not if they were in the folder already.
    """

    row: int
    seeds: list[int]
    pictures: UInt8[np.ndarray, "n h w 3"]
    place: Place
    made: bool = True


def draw_batches(
    pipe: Pipeline,
    settings: SampleSettings,
    *,
    at_once: int,
    rows: Sequence[int] | None = None,
    params: Tree | None = None,
    place: Place | None = None,
    folder: "PictureFolder | None" = None,
    on_step: OnStep | None = None,
) -> Iterator[Batch]:
    """All pictures, prompt by prompt; picture i of every prompt has seed ``settings.seed + i``.

    Args:
        pipe: the model.
        settings: what to draw.
        at_once: pictures of a batch. All have so many, or one has all, so that the sampler compiles once.
        rows: numbers of the prompts to draw; by default all.
        params: in the place of the pipeline's own.
        place: make each picture by itself at this place of a batch, to repeat one bit for bit.
        folder: if it goes on, what it has already is not made again.
        on_step: looks on.
    """
    prompts = [(row, settings.prompts[row]) for row in (range(len(settings.prompts)) if rows is None else rows)]
    options = {"sampling": settings.sampling, "params": params, "on_step": on_step, **settings.given}
    if place:
        for row, prompt in prompts:
            for seed in range(settings.seed, settings.seed + settings.num_images):
                made = pipe([prompt] * place.batch, seed=[seed] * place.batch, **options)
                yield Batch(row, [seed], made[place.position : place.position + 1], place)
        return
    size = min(at_once, settings.num_images)
    for row, prompt in prompts:
        for first in range(0, settings.num_images, size):
            offsets = range(first, min(first + size, settings.num_images))
            seeds = [settings.seed + i for i in offsets]
            filled = seeds + seeds[-1:] * (size - len(seeds))
            found = [folder.find(row, seed) for seed in seeds] if folder and folder.goes_on else [None]
            there = [picture for picture in found if picture is not None]
            if len(there) == len(seeds):
                yield Batch(row, seeds, np.stack(there), Place(size), made=False)
                continue
            pictures = pipe([prompt] * size, seed=filled, **options)
            yield Batch(row, seeds, pictures[: len(seeds)], Place(size))


class PictureFolder:
    """A folder that pictures of each call are added to; nothing in it is written over.

    Args:
        path: made if it is not there.
        goes_on: it was begun by the same call: its pictures are those of this one.

    Raises:
        InputError: if it cannot be written to.
    """

    def __init__(self, path: str | Path, *, goes_on: bool = False):
        self.path, self.goes_on = Path(path), goes_on
        try:  # before the first picture is drawn
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {self.path}: {error.strerror}") from error
        if not os.access(self.path, os.W_OK):
            raise InputError(f"cannot write to {self.path}: choose another folder")
        taken = [re.fullmatch(r"(\d{3,})-seed\d+\.png", file.name) for file in self.path.glob("*.png")]
        self._first = 1 + max((int(match[1]) for match in taken if match), default=-1)
        if goes_on:
            self._first = 0
        names = ("grid.png" if n == 1 else f"grid-{n}.png" for n in count(1))
        self.grid = next(self.path / name for name in names if goes_on or not (self.path / name).exists())

    def _path(self, row: int, seed: int) -> Path:
        return self.path / f"{self._first + row:03d}-seed{seed}.png"

    def find(self, row: int, seed: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """A picture that is there, of the number of a prompt and a seed."""
        path = self._path(row, seed)
        return np.asarray(decode(path)) if path.is_file() else None

    def save(self, batch: Batch, settings: SampleSettings, *, model: str, fingerprint: str = "") -> list[Path]:
        """Each picture as a PNG of its own, ``000-seed0.png``, with its settings inside.

        Args:
            batch: the pictures.
            settings: they were made with.
            model: its name.
            fingerprint: of the model's files.
        """
        if not batch.made:
            return []
        paths = []
        of_model = {"model": model, "fingerprint": fingerprint}
        for number, (seed, picture) in enumerate(zip(batch.seeds, batch.pictures), batch.place.position):
            path = self._path(batch.row, seed)
            of_picture = {"prompt": "", "seed": seed}  # in this order
            said = settings.said(batch.row, seed)
            place = {"batch": batch.place.batch, "position": number}
            save_png(path, picture, of_picture | settings.metadata() | said | of_model | place)
            paths.append(path)
        return paths
