# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --grid "steps=30,50 guidance=6,12"``: all combinations of some settings, as one picture."""

import dataclasses
import json
import logging
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth_jax.cli.loras import has_tags
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.text_files import write_text

if TYPE_CHECKING:
    from dreambooth_jax.evaluation.axes import Axis, Cell
    from dreambooth_jax.evaluation.matrix import MatrixSettings
    from dreambooth_jax.runs import OpenedModel

log = logging.getLogger(__name__)

Open = Callable[[SampleOptions], tuple["OpenedModel", DrawingConfig, dict[str, Any]]]


def read_grid(options: SampleOptions, told: Collection[str]) -> "list[Axis]":
    """The axes of the grid that is asked for, if one is.

    Raises:
        InputError: if it cannot be, or is asked for beside what it does not go with.
    """
    if options.grid is None:
        return []
    from dreambooth_jax.evaluation.axes import read_axes

    axes = read_axes(options.grid)
    if "num_images" in told:
        raise InputError("grid draws one picture of each combination: leave num_images out, or add seed=0,1,2 to it")
    for axis in axes:
        if {"model": "source"}.get(axis.key, axis.key) in {*told} - {"source"}:
            raise InputError(f"{axis.key} is given beside the grid, which varies it: leave one out")
    return axes


def with_prompts(axes: "Sequence[Axis]", fill: Callable[[Sequence[str]], list[str]]) -> "list[Axis]":
    """Axes whose prompts are filled in; there may be more of them than before."""

    def filled(axis: "Axis") -> "Axis":
        prompts = tuple(fill(axis.values))
        if has_tags(prompts):
            raise InputError("grid varies prompts with <lora:...>, but one model draws all: give --lora FILE:WEIGHT")
        return axis._replace(values=prompts, texts=prompts)

    return [filled(axis) if axis.key == "prompt" else axis for axis in axes]


def draw_grid(options: SampleOptions, prompts: Sequence[str], axes: "Sequence[Axis]", sheet: Path, open_: Open) -> None:
    """Draw all cells, model by model, and write the sheet and its JSON.

    Args:
        options: of the command line.
        prompts: one, unless an axis has them.
        axes: the settings that vary.
        sheet: the picture's file; the JSON's has the same name.
        open_: opens the model that options name: (model, how it draws, pictures that it draws from).

    Raises:
        InputError: if there are several prompts, none, or no such model.
    """
    import numpy as np

    from dreambooth_jax.cli.watching import watcher_of
    from dreambooth_jax.data.png import save_png
    from dreambooth_jax.evaluation.axes import cells_of
    from dreambooth_jax.evaluation.matrix import MatrixSettings, draw_cells, labelled_matrix
    from dreambooth_jax.pipeline.sizes import settled
    from dreambooth_jax.prepare.batch_size import pictures_at_once
    from dreambooth_jax.progress import Progress

    keys = {axis.key for axis in axes}
    if len(prompts) > 1 or (prompts and "prompt" in keys):
        raise InputError("grid draws one prompt: leave the others out, or write grid=\"prompt='a dog;a cat' ...\"")
    cells = cells_of(axes)
    together = len(cells) // max(1, len({_apart(cell) for cell in cells}))
    watcher = watcher_of(options)
    pictures: dict[tuple[int, ...], np.ndarray] = {}
    records: list[dict[str, Any]] = []
    name = ""
    try:
        with Progress(total=len(cells), desc="pictures", unit="picture") as bar:
            if watcher:
                watcher.bar = bar
            for told, group in groupby(cells, key=_opened):
                model, sampling, given = open_(dataclasses.replace(options, **dict(told)))
                settings = MatrixSettings(prompt="".join(prompts), seed=options.seed, sampling=sampling, given=given)
                whole = settled(model.pipe, sampling, given)
                at_once = pictures_at_once(model.pipe, whole, count=together, control=given.get("control", ()))
                parts = {"adapters": dict(model.adapters), "embeddings": dict(model.pipe.word_files)}
                added = {key: files for key, files in parts.items() if files}
                name = name or (options.source if keys & {"model", "step", "ema"} else model.name)
                way: dict[str, Any] = {"at_once": at_once, "params": model.params, "on_step": watcher}
                for cell, picture in draw_cells(model.pipe, list(group), settings, **way):
                    pictures[cell.place] = picture
                    records.append(_record(cell, settings, model=model.name) | added)
                    bar.update()
                del model  # before the next one is read
    finally:
        if 0 < len(records) < len(cells):
            log.info("%d of %d pictures are made; they are in %s", len(records), len(cells), sheet)
        if pictures:  # also those that were made before Ctrl-C
            short = Path(name).name  # folders are long, and nobody's business to whom the sheet is shown
            title = " · ".join([short, *([] if "prompt" in keys else prompts)])
            about = {"prompt": "".join(prompts), "seed": options.seed, "grid": options.grid, "model": name}
            save_png(sheet, labelled_matrix(pictures, axes, title=title), about)
            contents = {"grid": options.grid, "axes": {axis.key: axis.texts for axis in axes}, "cells": records}
            write_text(sheet.with_suffix(".json"), json.dumps(contents, indent=1, ensure_ascii=False) + "\n")


def _opened(cell: "Cell") -> tuple[tuple[str, Any], ...]:
    """Options that say which model a cell has."""
    names = {"model": "source", "step": "step", "ema": "ema"}
    return tuple((names[key], value) for key, value in cell.told.items() if key in names)


def _apart(cell: "Cell") -> str:
    return repr([(key, value) for key, value in sorted(cell.told.items()) if key not in ("prompt", "seed")])


def _record(cell: "Cell", settings: "MatrixSettings", *, model: str) -> dict[str, Any]:
    """All that made a picture."""
    told = {"prompt": settings.prompt, "seed": settings.seed} | dict(cell.told) | {"model": model}
    return {"place": cell.place} | settings.of(cell).metadata(with_image="image" in settings.given) | told
