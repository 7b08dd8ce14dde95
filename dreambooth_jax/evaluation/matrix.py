# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All combinations of some settings as one labelled picture: the first setting downwards, the second across, the third
block by block."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.diffusion.samplers.build import settings_of
from dreambooth_jax.evaluation.axes import FIELDS, Axis, Cell
from dreambooth_jax.evaluation.samples import INK, MARGIN, PAPER
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.run import OnStep
from dreambooth_jax.trees import Tree

ROW_LETTERS = 24
"""Of one line at a row."""
WORD_LETTERS = 40
"""Of a word above a column: a longer one is broken, others make the column as wide as they are."""
APART = ("prompt", "seed")
"""What pictures of one call may differ in."""


@dataclass(frozen=True, kw_only=True)
class MatrixSettings:
    """What is drawn where no axis says otherwise."""

    prompt: str
    seed: int
    sampling: DrawingConfig
    given: dict[str, Any]
    """Arguments of the pipeline besides."""

    def of(self, cell: Cell) -> DrawingConfig:
        """The sampling settings of a cell: what its sampler does not have is left out."""
        told = {name: value for name, value in cell.told.items() if name in FIELDS}
        sampling = self.sampling.changed(told)
        idle = set(sampling.of_sampler) - set(settings_of(sampling.sampler))
        defaults: dict[str, Any] = {field.name: field.default for field in fields(sampling) if field.name in idle}
        return replace(sampling, **defaults)


def draw_cells(
    pipe: Pipeline,
    cells: Sequence[Cell],
    settings: MatrixSettings,
    *,
    at_once: int,
    params: Tree,
    on_step: OnStep | None = None,
) -> Iterator[tuple[Cell, UInt8[np.ndarray, "h w 3"]]]:
    """The picture of each cell of one model.

    Cells that differ in prompt or seed alone are made together, always as many at once, so that cells of one size are
    made by one program (and one more without guidance).
    """

    def rest(cell: Cell) -> str:
        return repr([(name, value) for name, value in sorted(cell.told.items()) if name not in APART])

    for _, group in groupby(sorted(cells, key=rest), key=rest):
        members = list(group)
        size = min(at_once, len(members))
        for first in range(0, len(members), size):
            some = members[first : first + size]
            filled = some + some[-1:] * (size - len(some))
            pictures = pipe(
                [cell.told.get("prompt", settings.prompt) for cell in filled],
                seed=[cell.told.get("seed", settings.seed) for cell in filled],
                sampling=settings.of(some[0]),
                params=params,
                on_step=on_step,
                **settings.given,
            )
            yield from zip(some, pictures)


def labelled_matrix(
    pictures: dict[tuple[int, ...], UInt8[np.ndarray, "h w 3"]],
    axes: Sequence[Axis],
    *,
    title: str,
    rows_of: Sequence[Sequence[int]] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The sheet.

    Args:
        pictures: by place; where one is missing, paper is seen. Smaller ones stand in the middle of the largest's room.
        axes: one, which goes across, to three.
        title: above all.
        rows_of: the rows that each block has; by default all.
    """
    down, across, blocks = _in_three(axes)
    height, width = (max(picture.shape[side] for picture in pictures.values()) for side in (0, 1))
    size = max(11, min(28, height // 16))
    font = ImageFont.load_default(size)
    line, step_y = int(size * 1.3), height + MARGIN
    columns = _wrapped(across, max(int(max(width, 8 * size) / (0.6 * size)), _longest_word(across)))
    widest = max(int(font.getlength(part)) for text in columns for part in text.split("\n"))
    step_x = max(width, 8 * size, widest) + MARGIN
    rows = _wrapped(down, ROW_LETTERS)
    sheets = _wrapped(blocks, ROW_LETTERS + int(len(columns) * step_x / (0.6 * size)))
    rows_of = rows_of or [range(len(rows))] * len(sheets)
    longest = max(int(font.getlength(part)) for text in rows for part in text.split("\n"))
    left = MARGIN + (longest + MARGIN if down else 0)
    top = line * max(text.count("\n") + 1 for text in columns) + MARGIN if across else 0
    sheet_width = left + step_x * len(columns)
    heading = textwrap.fill(title, max(8, int((sheet_width - 2 * MARGIN) / (0.62 * size))))
    headings = [heading, *sheets]
    depth = [line * (text.count("\n") + 1) + MARGIN if text else 0 for text in headings]
    sheet_height = MARGIN + sum(depth) + len(sheets) * top + step_y * sum(map(len, rows_of))
    sheet = Image.new("RGB", (sheet_width, sheet_height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((MARGIN, MARGIN), heading, fill=INK, font=font)
    y = MARGIN + depth[0]
    for k, text in enumerate(sheets):
        pen.multiline_text((MARGIN, y), text, fill=INK, font=font)
        y += depth[1 + k]
        for j, text in enumerate(columns):
            pen.multiline_text((left + j * step_x, y), text, fill=INK, font=font)
        y += top
        for i in rows_of[k]:
            pen.multiline_text((MARGIN, y + MARGIN), rows[i], fill=INK, font=font)
            for j in range(len(columns)):
                place = tuple(n for n, axis in ((i, down), (j, across), (k, blocks)) if axis)
                if place not in pictures:
                    continue
                picture = pictures[place]
                corner = (left + j * step_x + (width - picture.shape[1]) // 2, y + (height - picture.shape[0]) // 2)
                sheet.paste(Image.fromarray(picture), corner)
            y += step_y
    return np.asarray(sheet)


def _wrapped(axis: Axis | None, letters: int) -> list[str]:
    """The labels of an axis, in lines of so many letters."""
    return [textwrap.fill(axis.label(n), letters) for n in range(len(axis.values))] if axis else [""]


def _longest_word(axis: Axis | None) -> int:
    """Letters of the longest word above a column, which is not broken unless it is very long."""
    words = [word for n in range(len(axis.values)) for word in axis.label(n).split()] if axis else []
    return min(WORD_LETTERS, max(map(len, words), default=0))


def _in_three(axes: Sequence[Axis]) -> tuple[Axis | None, Axis | None, Axis | None]:
    """(downwards, across, block by block)."""
    if len(axes) == 1:
        return None, axes[0], None
    return axes[0], axes[1], axes[2] if len(axes) > 2 else None
