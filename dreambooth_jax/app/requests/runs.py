# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody trained, and what he does with it: looks at it, shares it, deletes it."""

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.requests.desk import Desk, share_of
from dreambooth_jax.runs.folder import RunFolder
from dreambooth_jax.training.checkpoint import complete_steps

PHOTOS, NOUN = "data.instance_images", "data.class_noun"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, as it lies in its folder.

    Attributes:
        number: of the job that it is asked for by.
        noun: what its photos show.
        date: of its beginning, in UTC; empty before.
        state: of its job.
        steps: that have a checkpoint.
        megabytes: on the disk.
        mine: is it of whoever asks?
        shared: may others look at it and draw with it?
    """

    number: int
    noun: str
    date: str
    state: str
    steps: tuple[int, ...]
    megabytes: float
    mine: bool
    shared: bool

    def __str__(self) -> str:
        """For people."""
        steps = f"checkpoints {', '.join(map(str, self.steps))}" if self.steps else "no checkpoint"
        whose = "shared" if self.mine and self.shared else "" if self.mine else "of somebody else"
        words = (str(self.number), self.noun, self.state, steps, f"{self.megabytes:.1f} MB", self.date, whose)
        return " · ".join(word for word in words if word)


def runs(desk: Desk, owner: str) -> Iterator[tuple[Run, Job]]:
    """All of somebody and all that others share, newest first; one that was gone on with is one."""
    seen = set()
    for job in [*desk.of(owner, "train"), *desk.shared(owner)]:
        if job.folder not in seen:
            seen.add(job.folder)
            yield run_of(job, owner), job


def run_of(job: Job, owner: str) -> Run:
    """What there is of a training, for whoever asks."""
    folder = RunFolder(Path(job.folder))
    began = datetime.fromtimestamp(folder.config.stat().st_mtime, UTC) if folder.is_run() else None
    return Run(
        number=job.number,
        noun=_setting(job, NOUN),
        date=f"{began:%Y-%m-%d %H:%M}" if began else "",
        state=job.state,
        steps=tuple(complete_steps(folder.checkpoints)),
        megabytes=_bytes(folder.path) / 1e6,
        mine=job.owner == owner,
        shared=share_of(job).exists(),
    )


def settings_of(desk: Desk, owner: str, job: Job) -> str:
    """The file of its settings; folders are told its owner, on this machine."""
    file = RunFolder(Path(job.folder)).config
    text = file.read_text() if file.exists() else ""
    return text if desk.local and job.owner == owner else placeless(text)


def command_of(desk: Desk, job: Job) -> str:
    """What goes on with a training at the command line, which is told its owner."""
    words = job.words if desk.local else [placeless(word) for word in job.words]
    return shlex.join(["dreambooth-jax", *words])


def share(desk: Desk, owner: str, number: int, *, shared: bool) -> Job:
    """Let others look at a training and draw with it, or no longer.

    Raises:
        InputError: if it is none of one's own.
    """
    run = desk.own(owner, number)
    if shared:
        share_of(run).parent.mkdir(parents=True, exist_ok=True)
        share_of(run).touch()
    else:
        share_of(run).unlink(missing_ok=True)
    return run


def delete(desk: Desk, owner: str, number: int) -> float:
    """Delete a training, what was measured of it, and its photos where no other needs them.

    Returns:
        Megabytes that are free again.

    Raises:
        InputError: if it is none of one's own, or a job of anybody works with it.
    """
    run = desk.own(owner, number)
    desk.queue.forget(owner, run.folder)
    share_of(run).unlink(missing_ok=True)
    gone = [Path(run.folder), *desk.measured(owner).glob(f"{Path(run.folder).name}-*")]
    photos = _setting(run, PHOTOS)
    needed = {_setting(job, PHOTOS) for job in desk.of(owner, "train")}
    if photos not in needed and Path(photos).is_relative_to(desk.place(owner)):
        gone.append(Path(photos))
    free = sum(map(_bytes, gone)) / 1e6
    for place in gone:
        shutil.rmtree(place, ignore_errors=True)
    return free


def _setting(job: Job, key: str) -> str:
    """As it was asked for; empty where it was not."""
    return next((word.partition("=")[2] for word in job.words if word.startswith(f"{key}=")), "")


def _bytes(place: Path) -> int:
    """On the disk; of what is being written or removed, nothing."""
    total = 0
    for file in place.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
