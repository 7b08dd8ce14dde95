# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One labelled picture of all members: downwards the members, across the settings of sampling or the seeds, and the
prompts block by block. Each picture is kept by itself, so that none is drawn twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Literal

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
    rows = {cell.name: number for number, cell in enumerate(sweep.cells)}
    pictures: dict[tuple[int, ...], UInt8[np.ndarray, "h w 3"]] = {}
    config = sweep.member(finished[0].name).config
    if not _templates(config) or not (config.samples.every or sweep.grid):
        return None
    with announced(f"drawing pictures of {len(finished)} members", usually="a minute for each"):
        for cell in finished:
            for place, picture in _pictures_of(sweep, cell.name).items():
                pictures[rows[cell.name], *place] = picture
    if not distributed.is_main():
        return None
    down = _labels("member", [" ".join(cell.labels) for cell in sweep.cells])
    across = _across(sweep, config)
    words = [subject_of(concepts_of(sweep.member(cell.name).config)[0]) for cell in sweep.cells]
    blocks = _labels("prompt", headings(_templates(config), words, syntax=config.samples.prompt_syntax))
    height, width = (max(picture.shape[side] for picture in pictures.values()) for side in (0, 1))
    sides = (height * len(down.values) * len(blocks.values), width * len(across.values))
    pictures = {place: _smaller(picture, LARGEST_SHEET / max(sides)) for place, picture in pictures.items()}
    about = {"prompt": " | ".join(_templates(config)), "grid": sweep.grid, "seed": config.samples.seed}
    save_png(file, labelled_matrix(pictures, [down, across, blocks], title=sweep.folder.name), about)
    return file


def headings(templates: Sequence[str], words: Sequence[Subject], *, syntax: Literal["plain", "a1111"]) -> list[str]:
    """Prompts as all members have them; a word in which they differ is called by what it is.

    Args:
        templates: with fields.
        words: of each member.
        syntax: of the templates.
    """
    identifiers, nouns = {one.identifier for one in words}, {one.class_noun for one in words}
    common = Subject(
        identifier=identifiers.pop() if len(identifiers) == 1 else "<identifier>",
        class_noun=nouns.pop() if len(nouns) == 1 else "<class noun>",
    )
    return [common.fill(template, syntax=syntax) for template in templates]


def _pictures_of(sweep: Sweep, name: str) -> dict[tuple[int, ...], UInt8[np.ndarray, "h w 3"]]:
    """(column, block) -> picture of a member, drawn where it is not there; empty but on process 0."""
    config, folder = sweep.member(name).config, sweep.run_dir(name)
    sampling = DrawingConfig.of(config.samples.sampling(size=config.data.size))
    settings = MatrixSettings(prompt="", seed=config.samples.seed, sampling=sampling, given={})
    subject = subject_of(concepts_of(config)[0])
    prompts = [subject.fill(template, syntax=config.samples.prompt_syntax) for template in _templates(config)]
    columns = cells_of(read_axes(sweep.grid)) if sweep.grid else _seeds(config)
    step = RunFolder(folder).exported.read_text(encoding="utf-8") if distributed.is_main() else ""
    wanted = {}
    for (i, column), (j, prompt) in product(enumerate(columns), enumerate(prompts)):
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
    return {place: np.asarray(decode(file)) for place, (_, file) in wanted.items()} if distributed.is_main() else {}


def _digest(drawn: Drawn, settings: MatrixSettings, step: str) -> str:
    """A name for all that decides a picture of a member."""
    said = [sorted(drawn.told.items()), settings.seed, asdict(settings.of(drawn)), step]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]


def _templates(config: Config) -> list[str]:
    """What is drawn of each member, with fields."""
    return expanded(config.samples.prompts)


def _seeds(config: Config) -> list[Drawn]:
    seeds = range(config.samples.seed, config.samples.seed + config.samples.num_images)
    return [Drawn((number,), {"seed": seed}) for number, seed in enumerate(seeds)]


def _across(sweep: Sweep, config: Config) -> Axis:
    """The columns: seeds, or combinations of settings of sampling."""
    if not sweep.grid:
        return _labels("seed", [f"samples.seed={one.told['seed']}" for one in _seeds(config)])
    axes = read_axes(sweep.grid)
    places = [drawn.place for drawn in cells_of(axes)]
    return _labels("", [" ".join(axis.label(n) for axis, n in zip(axes, place)) for place in places])


def _labels(name: str, texts: Sequence[str]) -> Axis:
    """An axis of the sheet, whose labels are these."""
    return Axis(name, "prompt", tuple(texts), tuple(texts))


def _smaller(picture: UInt8[np.ndarray, "h w 3"], factor: float) -> np.ndarray:
    if factor >= 1:
        return picture
    height, width, _ = picture.shape
    return np.asarray(Image.fromarray(picture).resize((max(1, int(width * factor)), max(1, int(height * factor)))))
