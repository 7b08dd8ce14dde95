# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the logs of the stages look like: loss against pictures seen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a stage's ``log.jsonl``."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def draw(file: Path, logs: Mapping[str, list[dict[str, Any]]]) -> None:
    """A panel for each stage. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(logs), figsize=(4 * len(logs), 2.6))
    for axis, (name, log) in zip(axes, logs.items()):
        seen = 0
        points = [(seen := seen + row["examples"], row["loss"]) for row in log]
        axis.plot(*zip(*points), linewidth=0.8)
        losses = sorted(loss for _, loss in points)
        axis.set_ylim(losses[0], losses[int(0.98 * (len(losses) - 1))])  # the first ones are out of all proportion
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("pictures", fontsize=8)
        axis.set_ylabel("loss", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    pyplot.close(figure)
