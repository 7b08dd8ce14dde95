# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A command line that waits for the device, runs, or has ended; each is a small file, which outlives the page."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

State: TypeAlias = Literal["waiting", "running", "stopping", "stopped", "done", "failed", "deleted"]
ACTIVE: tuple[State, ...] = ("waiting", "running", "stopping")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command line of somebody.

    Attributes:
        number: in the order of asking, from 1.
        owner: who asked.
        words: of the command line, from the verb on.
        folder: that it writes to.
        state: how far it is; of one that is deleted only the number is left.
        pid: of its process, while it runs.
        born: what tells that process from a later one of the same number.
    """

    number: int
    owner: str
    words: tuple[str, ...]
    folder: str
    state: State = "waiting"
    pid: int = 0
    born: str = ""


@dataclass(frozen=True)
class JobFiles:
    """Where jobs are kept."""

    path: Path

    def read(self) -> list[Job]:
        """All of them, oldest first; a file that is damaged is left out."""
        self.path.mkdir(parents=True, exist_ok=True)
        found = []
        for file in sorted(self.path.glob("*.json")):
            try:
                values = json.loads(file.read_text())
                found.append(Job(**values | {"words": tuple(values["words"])}))
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def write(self, job: Job) -> None:
        """Whole or not at all."""
        file = self._file(job, "json")
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(asdict(job)))
        os.replace(unfinished, file)

    def log(self, job: Job) -> Path:
        """What it prints."""
        return self._file(job, "log")

    def code(self, job: Job) -> Path:
        """Its exit code, once it has ended by itself."""
        return self._file(job, "code")

    def forget(self, job: Job) -> None:
        """What it printed, and how it ended."""
        for file in (self.log(job), self.code(job)):
            file.unlink(missing_ok=True)

    def last_line(self, job: Job) -> str:
        """The last that it printed: where it failed, why."""
        try:
            lines = self.log(job).read_text(errors="replace")[-4000:].replace("\r", "\n").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if re.search(r"\w", line)), "")

    def _file(self, job: Job, ending: str) -> Path:
        return self.path / f"{job.number:06d}.{ending}"


def born(pid: int) -> str:
    """When a process began, in ticks, as Linux tells it; empty if there is none that works."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
