# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The study's figures: bars of all that was measured, and pictures of the creature that we drew ourselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from .scores import METRICS, PER_PROMPT

Row = Mapping[str, Any]


def save_strip(file: Path, *, own: UInt8[np.ndarray, "n h w 3"], of_class: UInt8[np.ndarray, "n h w 3"]) -> None:
    """One picture of each prompt with the identifier, then four of the class, side by side."""
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = [*own[::PER_PROMPT], *of_class[:4]]
    Image.fromarray(np.concatenate(chosen, axis=1)).save(file)


def strips(file: Path, found: Mapping[str, Path], *, says: str) -> None:
    """A row of pictures for each condition."""
    rows = [np.asarray(Image.open(strip)) for strip in found.values()]
    height, width = rows[0].shape[:2]
    pyplot = _pyplot()
    canvas, axis = pyplot.subplots(figsize=(2.4 + width / 110, 0.5 + len(rows) * height / 110))
    axis.imshow(np.concatenate(rows))
    axis.set_yticks([height * (i + 0.5) for i in range(len(rows))], list(found), fontsize=8)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(says, fontsize=9)
    canvas.tight_layout()
    canvas.savefig(file, dpi=110)
    pyplot.close(canvas)


def bars(file: Path, found: Mapping[str, Sequence[Row]]) -> None:
    """A panel for each metric: every run a dot, the mean a bar."""
    pyplot = _pyplot()
    panels, axes = pyplot.subplots(1, len(METRICS), figsize=(2.1 * len(METRICS), 0.9 + 0.32 * len(found)), sharey=True)
    places = np.arange(len(found))[::-1]
    lowest = min(0.0, *(row[metric] for rows in found.values() for row in rows for metric in METRICS))
    for axis, metric in zip(axes, METRICS):
        axis.barh(places, [np.mean([row[metric] for row in rows]) for rows in found.values()], color="#9ecae1")
        for place, rows in zip(places, found.values()):
            spread = np.linspace(-0.25, 0.25, len(rows)) if len(rows) > 1 else [0.0]
            axis.plot([row[metric] for row in rows], place + np.asarray(spread), ".", color="#08519c", markersize=3)
        axis.set_title(metric, fontsize=9)
        axis.set_xlim(lowest, 1.0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, list(found), fontsize=8)
    panels.tight_layout()
    panels.savefig(file, dpi=110)
    pyplot.close(panels)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
