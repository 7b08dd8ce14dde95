# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What came of a sweep: a table of members, the effect of each setting, and one picture, from the members' folders."""

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.expand import Cell
from dreambooth_jax.sweeps.effects import Effect, effects_of
from dreambooth_jax.sweeps.pictures import draw_sheet
from dreambooth_jax.sweeps.scores import SCORES, scores_of
from dreambooth_jax.sweeps.status import Status, status_of
from dreambooth_jax.sweeps.sweep import Sweep
from dreambooth_jax.text_files import write_text

log = logging.getLogger(__name__)

JSON, MARKDOWN, PICTURE = "overview.json", "overview.md", "grid.png"
EffectsOfAxis: TypeAlias = tuple[str, tuple[str, ...], list[Effect | None]]
"""A setting, its values, and the effect of each."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A member in the table."""

    cell: Cell
    status: Status
    scores: dict[str, float]


def write_overview(sweep: Sweep, *, picture: bool = True) -> str:
    """Write ``overview.json``, ``overview.md`` and ``grid.png`` into the folder. Returns the text for a terminal.

    All processes call it, process 0 writes.

    Args:
        sweep: of which some members may not be finished.
        picture: draw the grid, too; it goes on with what is drawn already.
    """
    rows = [
        Row(cell=cell, status=status_of(sweep.run_dir(cell.name)), scores=scores_of(sweep.run_dir(cell.name)))
        for cell in sweep.cells
    ]
    score = compared_by(rows)
    effects = all_effects(sweep, rows, score)
    sheet = None
    if picture:
        try:
            is_over = distributed.gather(np.asarray([row.status.finished for row in rows]))[0]  # as process 0 sees it
            finished = [row.cell for row, over in zip(rows, is_over) if over]
            sheet = draw_sheet(sweep, finished, sweep.folder / PICTURE)
        except InputError as error:  # what was trained stands, whatever becomes of its pictures
            log.warning("the pictures of all cannot be drawn: %s", error)
    if distributed.is_main():
        _write(sweep, rows, score, effects, sheet)
    return "\n\n".join(map(plain, [_table(sweep, rows, score), *_effect_tables(effects, score)]))


def _write(
    sweep: Sweep,
    rows: Sequence[Row],
    score: str,
    effects: Sequence[EffectsOfAxis],
    sheet: Path | None,
) -> None:
    contents = {
        "axes": [asdict(axis) for axis in sweep.axes],
        "grid": sweep.grid,
        "compared_by": score,
        "members": [_record(sweep, row) for row in rows],
        "effects": {key: dict(zip(texts, map(_effect_record, found))) for key, texts, found in effects},
        "picture": sheet.name if sheet else None,
    }
    write_text(sweep.folder / JSON, json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
    tables = [_table(sweep, rows, score), *_effect_tables(effects, score)]
    title = f"# {sweep.folder.name}\n\n"
    shown = f"\n\n![All members]({sheet.name})" if sheet else ""
    write_text(sweep.folder / MARKDOWN, title + "\n\n".join(map(markdown, tables)) + shown + "\n")


def compared_by(rows: Sequence[Row]) -> str:
    """The first score that all members have that are finished; the first of all where none is."""
    finished = [row for row in rows if row.status.finished]
    return next(
        (name for name in SCORES if finished and all(name in row.scores for row in finished)), next(iter(SCORES))
    )


def all_effects(sweep: Sweep, rows: Sequence[Row], score: str) -> list[EffectsOfAxis]:
    """(axis, its values, their effects) of axes of several values, where something else is varied, too."""
    scores = {row.cell.place: row.scores[score] for row in rows if row.status.finished and score in row.scores}
    varied = [number for number, axis in enumerate(sweep.axes) if len(axis.texts) > 1]
    found = []
    for number in varied if len(varied) > 1 else ():
        axis = sweep.axes[number]
        found.append((axis.key, axis.texts, effects_of(scores, axis=number, values=len(axis.texts))))
    return found


def _record(sweep: Sweep, row: Row) -> dict[str, Any]:
    folder = sweep.run_dir(row.cell.name).relative_to(sweep.folder)
    texts = {axis.key: axis.texts[number] for axis, number in zip(sweep.axes, row.cell.place)}
    return {"name": row.cell.name, "folder": str(folder), "values": texts, **row.status._asdict(), "scores": row.scores}


def _effect_record(effect: Effect | None) -> dict[str, Any] | None:
    return asdict(effect) if effect else None


Table = list[list[str]]
"""Rows of cells, the first of them the heading."""


def _table(sweep: Sweep, rows: Sequence[Row], score: str) -> Table:
    named = [axis.key.rpartition(".")[2] for axis in sweep.axes]
    others = [name for name in SCORES if name != score and any(name in row.scores for row in rows)]
    table = [[*named, "taken", *(name.replace("_", " ") for name in (score, *others)), ""]]
    known = [row.scores[score] for row in rows if row.status.finished and score in row.scores]
    best = (max if SCORES[score].better == "higher" else min)(known, default=None)
    for row in rows:
        texts = [axis.texts[number] for axis, number in zip(sweep.axes, row.cell.place)]
        said = row.status.error or ("" if row.status.finished else "not finished")
        mark = "best" if row.status.finished and row.scores.get(score) == best and len(rows) > 1 else said
        numbers = [f"{row.scores[name]:.4g}" if name in row.scores else "" for name in (score, *others)]
        table.append([*texts, str(row.status.step), *numbers, mark])
    return table


def _effect_tables(effects: Iterable[EffectsOfAxis], score: str) -> list[Table]:
    tables = []
    for key, texts, found in effects:
        table = [[key, f"mean {score.replace('_', ' ')}", "members", f"less {texts[0]}", "blocks"]]
        for text, one in zip(texts, found):
            if one is None:
                table.append([text, "", "0", "", ""])
                continue
            difference = "" if one.difference is None else interval(one.difference, one.difference_half_width, "+")
            blocks = str(one.blocks) if one.difference is not None else ""
            table.append([text, interval(one.mean, one.half_width), str(one.count), difference, blocks])
        tables.append(table)
    return tables


def interval(mean: float, half_width: float | None, sign: str = "") -> str:
    """A mean in as many digits as its interval gives it."""
    if not half_width:
        return f"{mean:{sign}.4g}" + (" ± 0" if half_width == 0 else "")
    digits = max(0, 1 - math.floor(math.log10(half_width)))
    return f"{mean:{sign}.{digits}f} ± {half_width:.{digits}f}"


def plain(table: Table) -> str:
    """A table for a terminal."""
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table)


def markdown(table: Table) -> str:
    """A table for a document."""
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table]
    lines = [f"| {row} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(table[0])}", *lines[1:]])


def picture_of(folder: Path) -> Path | None:
    """The picture of all members, where there is one."""
    file = folder / PICTURE
    return file if file.exists() else None
