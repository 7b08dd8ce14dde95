# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is old is forgotten, with its files, where a page is for strangers who try it."""

import shutil
import time
from pathlib import Path

from dreambooth_jax.app.jobs import ACTIVE
from dreambooth_jax.app.people import SERVED
from dreambooth_jax.app.queue import Queue

HOUR = 3600.0


def forget(queue: Queue, people: Path, *, hours: float, now: float | None = None) -> list[Path]:
    """Remove photos, runs, pictures and exports that nobody wrote to for so long, but none that an unended job needs.

    Args:
        queue: whose jobs need theirs.
        people: folder with a folder for each owner, with a folder for each kind of thing; beside it is what is served.
        hours: of rest.
        now: seconds since the epoch; by default what the clock says.

    Returns:
        What was removed.
    """
    needed = [" ".join((job.folder, *job.words)) for job in queue.of_all() if job.state in ACTIVE]
    before = (time.time() if now is None else now) - hours * HOUR
    old = [
        place
        for place in (*people.glob("*/*/*"), *(people.parent / SERVED).glob("*"))
        if place.is_dir() and not place.is_symlink() and _written(place) < before
        if not any(str(place) in words for words in needed)
    ]
    for place in old:
        shutil.rmtree(place, ignore_errors=True)
    return old


def _written(place: Path) -> float:
    """When it, or something that lies in it, was last written to."""
    times = [place.lstat().st_mtime]
    for inner in place.iterdir():
        times.append(inner.lstat().st_mtime)
    return max(times)
