# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a drawing has come to: its pictures with what made them, and what is seen on the way."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreambooth_jax.app.jobs import ACTIVE, Job
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.draw import BEFORE

LABELS = {False: "before training", True: "after training"}
"""Of the two pictures of a pair: is it drawn after training?"""


def newest(desk: Desk, owner: str) -> list[Job]:
    """The jobs of what somebody asked for last, in the order of asking."""
    jobs = desk.of(owner, "sample")
    return [job for job in reversed(jobs) if Path(job.folder).parent == Path(jobs[0].folder).parent]


def gallery(jobs: Sequence[Job], cache: Path, *, most: int) -> list[tuple[str, str]]:
    """(file, caption) of the pictures of a drawing; those of a pair are side by side, before training first.

    Args:
        jobs: of :func:`newest`.
        cache: folder that the server gives files of: the pictures are copied to it, without the names of its folders.
        most: pictures of each job.
    """
    found = []
    for job in jobs:
        folder = Path(job.folder)
        pattern = "grid*.png" if any(word.startswith("grid=") for word in job.words) else "[0-9]*.png"
        for file in sorted(folder.glob(pattern))[:most]:
            place = cache / folder.parent.name / folder.name / file.name
            if copied(file, place):
                found.append((file.name, folder.name != BEFORE, str(place)))
    return [(place, _caption(name, after, pair=len(jobs) > 1)) for name, after, place in sorted(found)]


def _caption(name: str, after: bool, *, pair: bool) -> str:
    of = name.partition("-")[2].removesuffix(".png").replace("seed", "seed ")
    return ", ".join(filter(None, (LABELS[after] if pair else "", of)))


def copied(file: Path, place: Path) -> bool:
    """Is there a copy of a picture whose text names no folder of the server? It is made if there is none."""
    if place.exists():
        return True
    unfinished = place.with_suffix(".tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            info = PngInfo()
            for keyword, text in getattr(image, "text", {}).items():
                info.add_text(keyword, placeless(text))
            image.save(unfinished, format="PNG", pnginfo=info)
        shutil.move(unfinished, place)
    except (OSError, SyntaxError):  # it is being written
        return False
    return True


def on_the_way(jobs: Sequence[Job]) -> UInt8[np.ndarray, "h w 3"] | None:
    """What is being drawn, if something is seen of it."""
    for file in (Path(job.folder).with_suffix(".jpg") for job in jobs if job.state in ACTIVE):
        try:
            return np.asarray(Image.open(file).convert("RGB"))
        except OSError:  # nothing yet
            continue
    return None
