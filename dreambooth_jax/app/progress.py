# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How far a job is, by what it has written."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreambooth_jax.app.bars import bar_of
from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.queue import Queue

_PLACE = re.compile(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+")


def placeless(text: str) -> str:
    """A message without the folders that it names, which are nobody's business but the server's."""
    return _PLACE.sub("", text)


def said(queue: Queue, job: Job) -> str:
    """A job in a few words; where it failed, why."""
    head = f"number {job.number}: {job.state}"
    if job.state == "waiting":
        ahead = queue.ahead(job)
        return f"{head}, at most {ahead} before it" if ahead else head
    own = Path(job.folder).parent
    line = queue.files.last_line(job)
    last = placeless(str(bar_of(line) or line).replace(f"{own}/", "")) or "starting"
    if job.state == "failed":
        return f"{head}\n{last.removeprefix('dreambooth-jax: ') if line else 'it ended without a word'}"
    return f"{head}\n{last}" if job.state in ("running", "stopping") else head


def losses(run: Path) -> Any:
    """Table of ``step`` and ``loss`` of a run."""
    import pandas

    rows = []
    try:
        for line in (run / "metrics.jsonl").read_text().splitlines():
            values = json.loads(line)
            if "loss" in values:
                rows.append({"step": values["step"], "loss": values["loss"]})
    except (OSError, ValueError):  # not there yet, or a line is being written
        pass
    # of a table that is empty yet, a plot would take both for names, and never change its mind
    return pandas.DataFrame(rows, columns=["step", "loss"]).astype({"step": int, "loss": float})


def pictures(folder: Path, *, most: int) -> list[np.ndarray]:
    """The newest pictures of a folder, but not its sheet of all of them."""
    files = [file for file in folder.glob("*.png") if not file.name.startswith("grid")]
    newest = sorted(sorted(files), key=lambda file: file.stat().st_mtime)[-most:]
    found = []
    for file in newest:
        try:
            with Image.open(file) as image:
                found.append(np.asarray(image.convert("RGB")))
        except OSError:  # it is being written
            continue
    return found


def samples(run: Path, *, most: int) -> list[tuple[int, np.ndarray]]:
    """(step, sheet of pictures) of a run: the last, in the order in which they were drawn."""
    found = []
    for file in sorted((run / "samples").glob("step_*.png"))[-most:]:
        try:
            with Image.open(file) as image:
                found.append((int(file.stem.removeprefix("step_")), np.asarray(image.convert("RGB"))))
        except (OSError, ValueError):  # it is being written
            continue
    return found
