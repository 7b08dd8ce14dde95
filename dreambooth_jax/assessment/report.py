# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The report: one HTML file with table, plots and pictures inside, which asks no network for anything."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from dreambooth_jax.assessment.plots import intervals, plane
from dreambooth_jax.assessment.result import Column, Measured
from dreambooth_jax.assessment.table import LEVEL, arrow, said, shown, why_not
from dreambooth_jax.assessment.thumbnails import thumbnail
from dreambooth_jax.evaluation.scores import MEASURES, Group, Kind, Measure
from dreambooth_jax.evaluation.towers import Picture

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; }
th { text-align: left; font-weight: 600; } td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
td, th { vertical-align: top; } .soft { color: var(--soft); } td.prompt { max-width: 16rem; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; } figcaption { font-weight: 600; }
img { margin: 0 3px 3px 0; vertical-align: top; } summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
svg text { fill: currentColor; font-size: 12px; } .wide { overflow-x: auto; }
"""
HEADINGS: dict[Kind, str] = {
    "subject": "Prompts of the subject",
    "class": "The class prompt",
    "other": "Other prompts: before training, then after",
}
LIKENESS, PROMPTS = ("DINO", "CLIP-I", "fidelity"), ("CLIP-T", "scene")
"""What the plane is of: the first of each that there is."""
MOST = {"alone": 8, "compared": 4}
"""Pictures of a prompt that are shown at most."""


def as_html(columns: Sequence[Column]) -> str:
    """The file."""
    title = f"Evaluation of {', '.join(column.name for column in columns)}"
    parts = [f"<h1>{escape(title)}</h1>", _table(columns), *_plots(columns), *_all_pictures(columns)]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(columns: Sequence[Column]) -> str:
    rows = [f"<tr><th></th>{''.join(f'<th>{escape(column.name)}</th>' for column in columns)}<th></th></tr>"]
    for measure in shown(columns):
        why = why_not(measure, columns)
        cells = "".join(f'<td class="n">{said(column.estimate(measure))}</td>' for column in columns)
        if why:
            cells = f'<td class="soft" colspan="{len(columns)}">{escape(why)}</td>'
        about = f'<td class="soft">{escape(measure.about)}</td>'
        rows.append(f"<tr><th>{escape(measure.name)} {arrow(measure)}</th>{cells}{about}</tr>")
    subjects = max(len(column.subjects) for column in columns)
    note = f"{LEVEL}. Subjects of each: {subjects}." if subjects > 1 else f"{LEVEL}."
    return f'<div class="wide"><table>{"".join(rows)}</table></div><p class="soft">{escape(note)}</p>'


def _plots(columns: Sequence[Column]) -> Iterator[str]:
    names = [column.name for column in columns]
    found = {measure.name: [column.estimate(measure) for column in columns] for measure in MEASURES}
    there = {name: values for name, values in found.items() if any(values)}
    if there:
        yield "<h2>Plots</h2>"
    x = next((name for name in PROMPTS if name in there), None)
    y = next((name for name in LIKENESS if name in there), None)
    if x and y:
        yield f"<figure><figcaption>Likeness and prompts</figcaption>{plane(names, x, there[x], y, there[y])}</figure>"
    for measure in MEASURES:
        if measure.name in there:
            heading = f"{escape(measure.name)} {arrow(measure)}"
            yield f"<figure><figcaption>{heading}</figcaption>{intervals(names, there[measure.name])}</figure>"


def _all_pictures(columns: Sequence[Column]) -> Iterator[str]:
    """Subjects that stand at the same place of their columns are shown side by side."""
    yield "<h2>Pictures</h2>"
    for number in range(max(len(column.subjects) for column in columns)):
        subjects = [column.subjects[number] if number < len(column.subjects) else None for column in columns]
        names = ", ".join(dict.fromkeys(one.name for one in subjects if one))
        first = next(one for one in subjects if one)
        photos = _pictures(first.photos, "a photo")
        rows = "".join(_kind(kind, subjects) for kind in HEADINGS)
        headings = "".join(f"<th>{escape(column.name)}</th>" for column in columns)
        table = f'<div class="wide"><table><tr><th></th>{headings}</tr>{rows}</table></div>'
        opened = " open" if number == 0 else ""
        yield f"<details{opened}><summary>{escape(names)}</summary><p>Photos: {photos}</p>{table}</details>"


def _kind(kind: Kind, subjects: Sequence[Measured | None]) -> str:
    groups = [{group.prompt: group for group in one.groups.get(kind, [])} if one else {} for one in subjects]
    prompts = list(dict.fromkeys(prompt for some in groups for prompt in some))
    if not prompts:
        return ""
    rows = [f'<tr><th colspan="{1 + len(subjects)}">{HEADINGS[kind]}</th></tr>']
    for prompt in prompts:
        text = next(some[prompt].text for some in groups if prompt in some)
        cells = [
            _cell(one, some[prompt], kind, alone=len(subjects) == 1) if one and prompt in some else "<td></td>"
            for one, some in zip(subjects, groups)
        ]
        rows.append(f'<tr><td class="prompt">{escape(text)}</td>{"".join(cells)}</tr>')
    return "".join(rows)


def _cell(subject: Measured, group: Group, kind: Kind, *, alone: bool) -> str:
    most = MOST["alone" if alone else "compared"]
    pictures = list(group.pictures[:most])
    if group.before:
        pictures = [picture for pair in zip(group.before, group.pictures) for picture in pair][:most]
    scores = [text for measure in MEASURES if measure.kind == kind if (text := _mean(subject, measure, group.prompt))]
    return f'<td>{_pictures(pictures, group.text)}<div class="soft">{escape(" · ".join(scores))}</div></td>'


def _mean(subject: Measured, measure: Measure, prompt: str) -> str:
    values = [value for value in subject.scores.get(measure.name, {}).get(prompt, ()) if value is not None]
    return f"{measure.name} {np.mean(values):.2f}" if values else ""


def _pictures(pictures: Sequence[Picture], text: str) -> str:
    return "".join(f'<img alt="{escape(text)}" src="{thumbnail(picture)}">' for picture in pictures)
