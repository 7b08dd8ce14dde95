# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --preview FILE --progress steps``: pictures are seen while they are made, by the program that makes them."""

import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.pipeline.preview import Preview, load_preview
from dreambooth_jax.pipeline.run import Step
from dreambooth_jax.progress import Progress

SUFFIXES = (".png", ".jpg", ".jpeg")
SIDE = 8
"""Pixels for a latent, where the preview has one."""


class Watcher:
    """Called after each step; writes what is seen over one file, and tells the bar how far the run is.

    Args:
        path: file of the preview, if one is wanted.
        preview: draws it.
        steps: whether the bar tells steps.

    Raises:
        InputError: if the file cannot be written, or has another ending than ``SUFFIXES``.
    """

    def __init__(self, path: Path | None, preview: Preview, *, steps: bool):
        self.bar: Progress | None = None
        """That of the pictures."""
        self._path, self._preview, self._steps = path, preview, steps
        if path and path.suffix.lower() not in SUFFIXES:
            raise InputError(f"preview = {str(path)!r}: must end in {', '.join(SUFFIXES)}")

    def __call__(self, step: Step) -> None:
        if self._path:
            self._write(tiled(self._preview(np.asarray(step.denoised))), self._path)
        if self._steps and self.bar is not None:
            self.bar.set_postfix_str(f", step {step.done} of {step.total}")

    def _write(self, picture: np.ndarray, path: Path) -> None:
        unfinished = path.with_name(f".{path.stem}.tmp{path.suffix}")
        try:  # whoever looks sees a whole picture
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(unfinished)
            os.replace(unfinished, path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise InputError(f"preview {path} cannot be written: {error.strerror or error}") from error


def watcher_of(options: SampleOptions) -> "Watcher | None":
    """Who looks on, if anybody is asked to.

    Raises:
        InputError: if the preview cannot be written or drawn.
    """
    if options.preview is None and options.progress == "pictures":
        return None
    path = Path(options.preview) if options.preview else None
    return Watcher(path, load_preview(options.preview_vae), steps=options.progress == "steps")


def tiled(pictures: np.ndarray) -> np.ndarray:
    """Pictures [b, h, w, 3] beside and below each other; small ones, of a pixel for a latent, are made larger."""
    count, height, width, _ = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return sheet.repeat(SIDE, 0).repeat(SIDE, 1) if max(height, width) <= 512 // SIDE else sheet
