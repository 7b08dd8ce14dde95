# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Results -> docs/study.md, a figure for each experiment, and which claims hold.

A claim that A has more of something than B is looked at subject by subject and seed by seed: of the differences A − B
of n pairs, Student's t gives the interval that the true mean lies in with 95 % confidence. The claim holds if that is
above zero, does not hold if it is below, and is left open if zero lies in it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from .conditions import EXPERIMENTS, Claim, Condition, Experiment
from .judge import Judge
from .scores import METRICS

Row = Mapping[str, Any]
_ENOUGH = 3
"""Pairs below which nothing is said of a claim."""

_HEAD = """\
# What DreamBooth does to the embedded model

Made by `python scripts/dreambooth_study.py`; numbers are mean ± standard deviation over {subjects} held-out subjects
({names}) × {seeds} seeds, {runs} sampled models in all. Each condition is
[`configs/quickstart.yaml`](../configs/quickstart.yaml) with the named thing changed.

**Measured by** a [judge](../scripts/study/judge.py): a small network trained on composed pictures, in place of the
paper's DINO and CLIP. Of drawings that it never saw it names the class, one of {classes}, right {class_right:.0%} of
the time; subjects, in scenes that it never saw, {subject_right:.0%}; it takes {mistaken:.1%} of other drawings for one.

| | |
|---|---|
| recognised ↑ | share of pictures of "a sks dog …" that the judge takes for the subject |
| fidelity ↑ | mean cosine similarity of these to the instance pictures (the paper's DINO) |
| prompt ↑ | share whose background, and place, are what the prompt says |
| leaked ↓ | share of pictures of "a dog …" that the judge takes for the subject |
| drift ↓ | mean cosine similarity of these to the instance pictures (the paper's PRES) |
| diversity ↑ | mean cosine distance between these, for one prompt (the paper's DIV) |
| class ↑ | share of these that the judge takes for the class |
"""


def write(folder: Path, rows: Sequence[Row], judge: Judge) -> None:
    """study.md and study/*.png."""
    figures = folder / "study"
    figures.mkdir(parents=True, exist_ok=True)
    names = sorted({row["subject"] for row in rows})
    text = _HEAD.format(
        subjects=len(names),
        names=", ".join(names),
        seeds=len({row["seed"] for row in rows}),
        runs=len(rows),
        class_right=judge.measured["class_right_on_unseen_drawings"],
        classes=judge.measured["classes"],
        subject_right=judge.measured["subject_right_in_unseen_scenes"],
        mistaken=judge.measured["taken_for_a_subject"],
    )
    for experiment in EXPERIMENTS:
        found = {condition.name: rows_of(condition, rows) for condition in experiment.conditions}
        if all(found.values()):
            figure(figures / f"{experiment.slug}.png", experiment, found)
            text += section(experiment, found)
    (folder / "study.md").write_text(text, encoding="utf-8")


def rows_of(condition: Condition, rows: Sequence[Row]) -> list[Row]:
    """Those of one condition."""
    wanted = {"training": condition.training.key, **condition.sampling._asdict()}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def section(experiment: Experiment, found: Mapping[str, Sequence[Row]]) -> str:
    """A table, a figure and what became of the claims."""
    lines = [f"\n## {experiment.title}\n", "| | n | " + " | ".join(METRICS) + " |", "|---" * (2 + len(METRICS)) + "|"]
    for name, rows in found.items():
        cells = [f"{mean:.2f} ± {spread:.2f}" for mean, spread in (summary(rows, metric) for metric in METRICS)]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    lines.append(f"\n![{experiment.title}](study/{experiment.slug}.png)\n")
    for claim in experiment.claims:
        difference, error, count = compare(claim, found)
        lines.append(
            f"- *{claim.text}* **{verdict(difference, error)}**: {claim.metric} of {claim.more} is "
            f"{difference:+.3f} ± {error:.3f} above that of {claim.less} (95 %, {count} pairs)."
        )
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row], metric: str) -> tuple[float, float]:
    """(mean, standard deviation)."""
    values = [row[metric] for row in rows]
    return float(np.mean(values)), float(np.std(values))


def compare(claim: Claim, found: Mapping[str, Sequence[Row]]) -> tuple[float, float, int]:
    """(mean difference, half of its 95 % interval, pairs) over what both conditions have."""
    more, less = (
        {(row["subject"], row["seed"]): row[claim.metric] for row in found[name]} for name in (claim.more, claim.less)
    )
    differences = np.array([more[pair] - less[pair] for pair in sorted(more.keys() & less.keys())])
    count = len(differences)
    if count < _ENOUGH:
        return float(differences.mean()) if count else float("nan"), float("inf"), count
    return float(differences.mean()), float(stats.sem(differences) * stats.t.ppf(0.975, count - 1)), count


def verdict(difference: float, error: float) -> str:
    """Holds, does not hold, or neither can be said."""
    if not abs(difference) > error:
        return "Open"
    return "Holds" if difference > 0 else "Does not hold"


def figure(file: Path, experiment: Experiment, found: Mapping[str, Sequence[Row]]) -> None:
    """A panel for each metric: every run a dot, the mean a bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels, axes = pyplot.subplots(1, len(METRICS), figsize=(2.1 * len(METRICS), 0.9 + 0.32 * len(found)), sharey=True)
    places = np.arange(len(found))[::-1]
    for axis, metric in zip(axes, METRICS):
        axis.barh(places, [summary(rows, metric)[0] for rows in found.values()], color="#9ecae1", height=0.7)
        for place, rows in zip(places, found.values()):
            spread = np.linspace(-0.25, 0.25, len(rows)) if len(rows) > 1 else [0.0]
            axis.plot([row[metric] for row in rows], place + np.asarray(spread), ".", color="#08519c", markersize=3)
        axis.set_title(metric, fontsize=9)
        axis.set_xlim(min(0.0, *(row[metric] for rows in found.values() for row in rows)), 1.0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, list(found), fontsize=8)
    panels.tight_layout()
    panels.savefig(file, dpi=110)
    pyplot.close(panels)
