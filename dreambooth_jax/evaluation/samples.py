# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Fixed-seed pictures, as a labelled grid: one row per prompt, one column per seed."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.data.png import save_png
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.preview import Preview
from dreambooth_jax.prompts.wildcards import Side, draw
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters.asked import Asked

MARGIN = 8
PAPER, INK = (255, 255, 255), (32, 32, 32)


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """What a grid is made of. The same settings and parameters give the same grid."""

    prompts: Sequence[str]
    num_images: int = 4
    seed: int = 0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    given: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline besides: pictures to draw from."""
    words: Mapping[str, str] = field(default_factory=dict)
    """New words that are from files, and how the hash of each file begins."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Adapters of files that the model has besides, with their weights, and how the hash of each begins."""
    loras: Sequence[Sequence[str]] = ()
    """Adapters that each prompt adds to the model, as ``FILE:WEIGHT``; empty where none has its own."""
    preview: Preview | None = None
    """Draws the final latents in the place of the model's decoder."""

    def said(self, row: int, seed: int) -> dict[str, str]:
        """Prompt and negative prompt of a picture, and what they were drawn from, where they have wildcards."""
        told = {"prompt": self.prompts[row], "negative_prompt": self.sampling.negative_prompt}
        if self.sampling.prompt_syntax == "plain":
            return told
        sides: dict[str, Side] = {"prompt": "prompt", "negative_prompt": "negative"}
        folder = self.sampling.wildcards
        drawn = {name: draw(told[name], seed=seed, folder=folder, side=side) for name, side in sides.items()}
        return drawn | {f"{name}_template": text for name, text in told.items() if drawn[name] != text}

    @property
    def labels(self) -> list[str]:
        """The prompts with the names of their own adapters, as A1111 has them."""
        loras = self.loras or [()] * len(self.prompts)
        return [
            "".join([prompt, *(f" <lora:{Asked.read(text).name}>" for text in lora)])
            for prompt, lora in zip(self.prompts, loras, strict=True)
        ]

    def metadata(self) -> dict[str, Any]:
        """Settings that all pictures of the grid share."""
        about = DrawingConfig.of(self.sampling).metadata(with_image="image" in self.given)
        controls = [one.about() for one in self.given.get("control", ())]
        about |= {"control": controls} if controls else {}
        if refiner := self.given.get("refiner"):
            start = DrawingConfig.of(self.sampling).refiner_start
            about |= {"refiner": str(refiner.components.folder), "refiner_start": start}
        about |= {"embeddings": dict(self.words)} if self.words else {}
        about |= {"adapters": dict(self.adapters)} if self.adapters else {}
        return about


def draw_rows(
    pipe: Pipeline, settings: SampleSettings, *, params: Tree | None = None
) -> list[UInt8[np.ndarray, "n h w 3"]]:
    """One row of pictures per prompt; picture i of every row has seed ``settings.seed + i``.

    Every row is one call of the same shape, so all of them together compile once.
    """
    rows = (
        pipe(
            [prompt] * settings.num_images,
            seed=[settings.seed + i for i in range(settings.num_images)],
            sampling=settings.sampling,
            params=params,
            output="latents" if settings.preview else "uint8",
            **settings.given,
        )
        for prompt in settings.prompts
    )
    return [settings.preview(row) if settings.preview else row for row in rows]


def labelled_grid(
    rows: Sequence[UInt8[np.ndarray, "n h w 3"]], labels: Sequence[str], *, title: str = ""
) -> UInt8[np.ndarray, "height width 3"]:
    """Rows of pictures, each under its label."""
    n, height, width, _ = rows[0].shape
    size = max(11, min(28, height // 16))
    font = ImageFont.load_default(size)
    sheet_width = MARGIN + max(n * (width + MARGIN), 24 * size)
    columns = max(8, int((sheet_width - 2 * MARGIN) / (0.6 * size)))
    texts = [textwrap.fill(text, columns) for text in labels]
    heading = textwrap.fill(title, columns)
    line = int(size * 1.3)

    def depth(text: str) -> int:
        return line * (text.count("\n") + 1) + MARGIN if text else 0

    total = MARGIN + depth(heading) + sum(depth(text) + height + MARGIN for text in texts)
    sheet = Image.new("RGB", (sheet_width, total), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((MARGIN, MARGIN), heading, fill=INK, font=font)
    y = MARGIN + depth(heading)
    for text, row in zip(texts, rows, strict=True):
        pen.multiline_text((MARGIN, y), text, fill=INK, font=font)
        y += depth(text)
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (MARGIN + column * (width + MARGIN), y))
        y += height + MARGIN
    return np.asarray(sheet)


def save_grid(
    path: str | Path, rows: Sequence[UInt8[np.ndarray, "n h w 3"]], settings: SampleSettings, *, title: str = ""
) -> None:
    """Write the labelled grid with its settings inside."""
    about = settings.metadata() | {"prompt": " | ".join(settings.prompts), "seed": settings.seed}
    about["grid"] = [*settings.prompts]
    sheet = labelled_grid(rows, settings.prompts, title=title)
    save_png(path, sheet, about)


def save_beside(path: str | Path, left: str | Path, right: str | Path) -> None:
    """Write two saved grids as one, so that the same prompt and seed stand in one line. Lower ones get more paper."""
    sheets = [np.asarray(Image.open(file).convert("RGB")) for file in (left, right)]
    height = max(len(sheet) for sheet in sheets)
    padding = [((0, height - len(sheet)), (0, 0), (0, 0)) for sheet in sheets]
    save_png(path, np.concatenate([np.pad(s, p, constant_values=255) for s, p in zip(sheets, padding)], axis=1))
