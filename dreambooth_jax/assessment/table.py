# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The table of measures for a terminal, and all numbers as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from dreambooth_jax.assessment.result import Column
from dreambooth_jax.evaluation.bootstrap import Estimate
from dreambooth_jax.evaluation.scores import MEASURES, Measure

ACROSS = 4
"""Columns of one table on a terminal."""
LEVEL = "95 % intervals: bootstrap over subjects and prompts; of one subject, over its prompts, or pictures of one"
WEIGHTS = {
    "dino": "evaluate.dino=facebook/dino-vits16",
    "clip": "evaluate.clip=openai/clip-vit-base-patch32",
    "lpips": "evaluate.lpips=FILE",
    "judge": "evaluate.judge=FOLDER",
}
"""What gives a tower its weights."""


def said(estimate: Estimate | None) -> str:
    """0.612 [0.581, 0.640]; of one score alone there is no interval."""
    if estimate is None:
        return "-"
    interval = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate.scores > 1 else ""
    return f"{estimate.mean:.3f}{interval}"


def arrow(measure: Measure) -> str:
    """Where better is."""
    return "↑" if measure.better == "higher" else "↓"


def shown(columns: Sequence[Column]) -> list[Measure]:
    """Those of photographs always; those of the judge where it was asked."""
    asked = {name for column in columns for one in column.subjects for name in one.scores}
    return [measure for measure in MEASURES if measure.tower != "judge" or measure.name in asked]


def why_not(measure: Measure, columns: Sequence[Column]) -> str:
    """Why a measure has no number anywhere; empty where it has one."""
    if not any(measure.name in one.scores for column in columns for one in column.subjects):
        has_groups = any(measure.kind in one.groups for column in columns for one in column.subjects)
        of_runs = measure.kind == "other" and not has_groups
        return f"no weights: {WEIGHTS[measure.tower]}" + (" (of runs)" if of_runs else "")
    return ""


def as_text(columns: Sequence[Column]) -> str:
    """For a terminal: a measure in each line, a source in each column."""
    blocks = []
    for start in range(0, len(columns), ACROSS):
        some = columns[start : start + ACROSS]
        rows = [["", *(column.name for column in some)]]
        for measure in shown(columns):
            why = why_not(measure, columns)
            cells = [why] if why else [said(column.estimate(measure)) for column in some]
            rows.append([f"{measure.name} {arrow(measure)}", *cells])
        blocks.append(_plain(rows))
    return "\n\n".join([*blocks, LEVEL])


def _plain(rows: Sequence[Sequence[str]]) -> str:
    """Lines that are shorter, which say why there is no number, widen no column."""
    full = [row for row in rows if len(row) == len(rows[0]) and "no weights" not in row[1]]
    widths = [max(len(row[n]) for row in (rows if n == 0 else full)) for n in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def as_dict(columns: Sequence[Column]) -> dict[str, Any]:
    """All numbers: means with intervals, and of each subject and prompt the values of all pictures."""

    def of_column(column: Column) -> dict[str, Any]:
        found = {measure.name: column.estimate(measure) for measure in MEASURES}
        return {
            "name": column.name,
            "scores": {name: one._asdict() for name, one in found.items() if one},
            "subjects": [{"name": one.name, "values": one.scores} for one in column.subjects],
        }

    about = {
        measure.name: {"about": measure.about, "better": measure.better, "tower": measure.tower} for measure in MEASURES
    }
    return {"intervals": LEVEL, "measures": about, "sources": [of_column(column) for column in columns]}


def as_json(columns: Sequence[Column]) -> str:
    """:func:`as_dict` as text."""
    return json.dumps(as_dict(columns), indent=1, ensure_ascii=False) + "\n"
