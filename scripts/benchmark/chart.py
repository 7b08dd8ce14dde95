# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Growth as a picture: seconds above, memory below, a column for each thing that grows."""

from pathlib import Path
from typing import Any

TIME, MEMORY, STATE = "#1f5fa8", "#c2571a", "#e9b48f"
LABELS = {"batch": "examples per step", "resolution": "pixels of a side", "devices": "devices"}
KEYS = {"batch": "examples", "resolution": "pixels", "devices": "devices"}


def draw(path: Path, report: dict[str, Any]) -> None:
    """Write the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    sections = [section for section in LABELS if section in report["sections"]]
    figure, panels = pyplot.subplots(2, len(sections), figsize=(3.3 * len(sections), 4.6), sharex="col", squeeze=False)
    for (time, memory), section in zip(panels.T, sections):
        for parallel, style in (("pmap", "--"), ("fsdp", "-")):
            rows = [row for row in report["sections"][section] if row["parallel"] == parallel]
            if not rows:
                continue
            x = [row[KEYS[section]] for row in rows]
            label = {"label": parallel} if section == "devices" else {}
            time.plot(x, [row["seconds"] for row in rows], style, color=TIME, marker="o", markersize=4, **label)
            gigabytes = [row["peak_bytes"] / 1e9 for row in rows]
            memory.plot(x, gigabytes, style, color=MEMORY, marker="o", markersize=4, **label)
            memory.plot(x, [row["state_bytes"] / 1e9 for row in rows], style, color=STATE, marker="o", markersize=3)
        for axis in (time, memory):
            axis.grid(alpha=0.25)
            axis.set_ylim(bottom=0)
        if section == "devices":
            time.legend(frameon=False)
        memory.set_xlabel(LABELS[section])
        memory.set_xticks(sorted({row[KEYS[section]] for row in report["sections"][section]}))
        if section == "batch":
            memory.set_xticks([1, 8, 16, 32])
    panels[0][0].set_ylabel("seconds per step")
    panels[1][0].set_ylabel("GB per device")
    panels[1][0].annotate("peak of the step", (0.04, 0.9), xycoords="axes fraction", color=MEMORY)
    panels[1][0].annotate("parameters and moments", (0.04, 0.8), xycoords="axes fraction", color="#b98258")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
