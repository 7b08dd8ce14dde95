# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One labelled picture of all members: downwards the members, across the settings of sampling or the seeds, and the
prompts block by block, each with the members that have it. Each picture is kept by itself, and not drawn twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dreambooth_jax import distributed
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.data.images import decode
from dreambooth_jax.data.png import save_png
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.evaluation.axes import Axis, cells_of, read_axes
from dreambooth_jax.evaluation.axes import Cell as Drawn
from dreambooth_jax.evaluation.matrix import MatrixSettings, draw_cells, labelled_matrix
from dreambooth_jax.members.expand import Cell
from dreambooth_jax.pipeline.sizes import settled
from dreambooth_jax.prepare.batch_size import pictures_at_once
from dreambooth_jax.prepare.photos import subject_of
from dreambooth_jax.progress import announced
from dreambooth_jax.prompts.named import expanded
from dreambooth_jax.runs import RunFolder, open_model
from dreambooth_jax.sweeps.sweep import Sweep

LARGEST_SHEET = 16_000
"""Pixels of a side of the sheet; pictures become smaller where it would be larger."""


class Prompt(NamedTuple):
    """What is drawn.

    Attributes:
        template: with fields.
        syntax: of it.
    """

    template: str
    syntax: Literal["plain", "a1111"]


class Asked(NamedTuple):
    """What is drawn of a member; nothing where its settings ask for no pictures.

    Attributes:
        prompts: each differs from the others.
        columns: settings of sampling or seeds, each at a place that no others have, of whichever member.
    """

    prompts: Sequence[Prompt]
    columns: Sequence[Drawn]


def draw_sheet(sweep: Sweep, finished: Sequence[Cell], file: Path) -> Path | None:
    """Draw what is not drawn yet, and the sheet. None where the settings ask for no pictures, or nobody is finished.

    All processes call it, since all open a model together; process 0 draws.

    Args:
        sweep: the set.
        finished: members to draw with; the rows of others stay empty.
        file: of the sheet.
    """
    if not finished:
        return None
    configs = {cell.name: sweep.member(cell.name).config for cell in sweep.cells}
    asked = [_asked(sweep, config) for config in configs.values()]
    drawn = [(row, cell.name) for row, cell in enumerate(sweep.cells) if cell in finished and asked[row].prompts]
    if not drawn:
        return None
    prompts = list(dict.fromkeys(prompt for one in asked for prompt in one.prompts))
    columns = {column.place: column for one in asked for column in one.columns}
    places = sorted(columns)
    pictures: dict[tuple[int, ...], UInt8[np.ndarray, "h w 3"]] = {}
    with announced(f"drawing pictures of {len(drawn)} members", usually="a minute for each"):
        for row, name in drawn:
            for (place, prompt), picture in _pictures_of(configs[name], sweep.run_dir(name), asked[row]).items():
                pictures[row, places.index(place), prompts.index(prompt)] = picture
    if not distributed.is_main():
        return None
    words = [subject_of(concepts_of(config)[0]) for config in configs.values()]
    rows_of = [[row for row, one in enumerate(asked) if prompt in one.prompts] for prompt in prompts]
    down = _labels("member", [" ".join(cell.labels) for cell in sweep.cells])
    across = _across(sweep, [columns[place] for place in places])
    blocks = _labels(
        "prompt", [heading(prompt, [words[row] for row in rows]) for prompt, rows in zip(prompts, rows_of)]
    )
    height, width = (max(picture.shape[side] for picture in pictures.values()) for side in (0, 1))
    sides = (height * sum(map(len, rows_of)), width * len(across.values))
    pictures = {place: _smaller(picture, LARGEST_SHEET / max(sides)) for place, picture in pictures.items()}
    about: dict[str, Any] = {"prompt": " | ".join(prompt.template for prompt in prompts), "grid": sweep.grid}
    seeds = {config.samples.seed for config in configs.values()}
    about |= {"seed": seeds.pop()} if len(seeds) == 1 else {}
    sheet = labelled_matrix(pictures, [down, across, blocks], title=sweep.folder.name, rows_of=rows_of)
    save_png(file, sheet, about)
    return file


def heading(prompt: Prompt, words: Sequence[Subject]) -> str:
    """A prompt as all members have it; a word in which they differ is called by what it is.

    Args:
        prompt: with fields.
        words: of each member that has it.
    """
    identifiers, nouns = {one.identifier for one in words}, {one.class_noun for one in words}
    common = Subject(
        identifier=identifiers.pop() if len(identifiers) == 1 else "<identifier>",
        class_noun=nouns.pop() if len(nouns) == 1 else "<class noun>",
    )
    return common.fill(prompt.template, syntax=prompt.syntax)


def _asked(sweep: Sweep, config: Config) -> Asked:
    if not (config.samples.every or sweep.grid):
        return Asked((), ())
    prompts = [Prompt(template, config.samples.prompt_syntax) for template in expanded(config.samples.prompts)]
    return Asked(tuple(dict.fromkeys(prompts)), cells_of(read_axes(sweep.grid)) if sweep.grid else _seeds(config))


def _pictures_of(
    config: Config, folder: Path, asked: Asked
) -> dict[tuple[tuple[int, ...], Prompt], UInt8[np.ndarray, "h w 3"]]:
    """(place of the column, prompt) -> picture of a member, drawn where it is not there; empty but on process 0."""
    sampling = DrawingConfig.of(config.samples.sampling(size=config.data.size))
    settings = MatrixSettings(prompt="", seed=config.samples.seed, sampling=sampling, given={})
    subject = subject_of(concepts_of(config)[0])
    prompts = [subject.fill(template, syntax=syntax) for template, syntax in asked.prompts]
    step = RunFolder(folder).exported.read_text(encoding="utf-8") if distributed.is_main() else ""
    wanted = {}
    for (i, column), (j, prompt) in product(enumerate(asked.columns), enumerate(prompts)):
        drawn = Drawn((i, j), {**column.told, "prompt": prompt})
        wanted[drawn.place] = drawn, folder / "pictures" / f"{_digest(drawn, settings, step)}.png"
    missing = [drawn for drawn, file in wanted.values() if not file.exists()]
    if distributed.gather(bool(missing))[0]:
        model = open_model(str(folder))

        def draw() -> None:
            (folder / "pictures").mkdir(exist_ok=True)
            at_once = pictures_at_once(model.pipe, settled(model.pipe, sampling, {}), count=len(prompts))
            for drawn, picture in draw_cells(model.pipe, missing, settings, at_once=at_once, params=model.params):
                about = {"seed": settings.seed} | settings.of(drawn).metadata(with_image=False) | dict(drawn.told)
                save_png(wanted[drawn.place][1], picture, about | {"model": model.name})

        distributed.on_main(draw)
    if not distributed.is_main():
        return {}
    return {
        (asked.columns[i].place, asked.prompts[j]): np.asarray(decode(file)) for (i, j), (_, file) in wanted.items()
    }


def _digest(drawn: Drawn, settings: MatrixSettings, step: str) -> str:
    """A name for all that decides a picture of a member."""
    said = [sorted(drawn.told.items()), settings.seed, asdict(settings.of(drawn)), step]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]


def _seeds(config: Config) -> list[Drawn]:
    seeds = range(config.samples.seed, config.samples.seed + config.samples.num_images)
    return [Drawn((seed,), {"seed": seed}) for seed in seeds]


def _across(sweep: Sweep, columns: Sequence[Drawn]) -> Axis:
    """The columns: seeds, or combinations of settings of sampling."""
    if not sweep.grid:
        return _labels("seed", [f"samples.seed={one.told['seed']}" for one in columns])
    axes = read_axes(sweep.grid)
    return _labels("", [" ".join(axis.label(n) for axis, n in zip(axes, one.place)) for one in columns])


def _labels(name: str, texts: Sequence[str]) -> Axis:
    """An axis of the sheet, whose labels are these."""
    return Axis(name, "prompt", tuple(texts), tuple(texts))


def _smaller(picture: UInt8[np.ndarray, "h w 3"], factor: float) -> np.ndarray:
    if factor >= 1:
        return picture
    height, width, _ = picture.shape
    return np.asarray(Image.fromarray(picture).resize((max(1, int(width * factor)), max(1, int(height * factor)))))
