# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One queue for the device, in turn among those who ask.

The next job is of the one who has waited longest for a turn. Processes outlive the page: a later one finds them by
their number and the time they began, and begins again what died with the machine: a training goes on where it was
saved.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dreambooth_jax.app.endings import STOPPED
from dreambooth_jax.app.jobs import ACTIVE, Job, JobFiles, State, born
from dreambooth_jax.errors import InputError

Command = Callable[[Job, Path], Sequence[str]]


def command_of(job: Job, code: Path) -> list[str]:
    """The words of its process."""
    return [sys.executable, "-m", "dreambooth_jax.app.child", str(code), *job.words]


class Queue:
    """Jobs that are kept in a folder, of which one runs.

    Args:
        folder: of their files.
        most: jobs of one owner that wait or run.
        whole: jobs of all that wait or run.
        command: what runs a job.
    """

    def __init__(self, folder: Path, *, most: int, whole: int = 1000, command: Command = command_of):
        self.files = JobFiles(folder)
        self._most, self._whole, self._command = most, whole, command
        self._lock = threading.Lock()
        self._jobs = {job.number: job for job in self.files.read()}
        self._own: dict[int, subprocess.Popen] = {}
        self._turns: dict[str, int] = {}
        for job in self._of_state("running", "stopping"):
            if not self._lives(job) and not self.files.code(job).exists():
                self._set(job, state="waiting" if job.state == "running" else "stopped")

    def add(self, owner: str, words: Sequence[str], folder: Path) -> Job:
        """Ask for a command line.

        Raises:
            InputError: if its owner has as many jobs as may wait, or all together have.
        """
        with self._lock:
            active = self._of_state(*ACTIVE)
            if sum(job.owner == owner for job in active) >= self._most:
                raise InputError(f"{self._most} jobs of yours wait or run already: wait for one, or stop it")
            if len(active) >= self._whole:
                raise InputError(f"{self._whole} jobs of all wait or run already: come back later")
            number = 1 + max(self._jobs, default=0)
            return self._set(Job(number=number, owner=owner, words=tuple(words), folder=str(folder)))

    def of(self, owner: str) -> list[Job]:
        """All jobs of somebody, oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.owner == owner and job.state != "deleted"]

    def of_all(self) -> list[Job]:
        """All jobs of everybody, oldest first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.state != "deleted"]

    def forget(self, owner: str, folder: str) -> None:
        """Leave of somebody's jobs that wrote into a folder nothing but the numbers.

        Raises:
            InputError: while a job of anybody works with that folder, or waits to.
        """
        with self._lock:
            for job in self._of_state(*ACTIVE):
                if any(folder in word for word in (job.folder, *job.words)):
                    raise InputError(f"number {job.number} works with it or waits to: wait for it, or stop it")
            for job in [job for job in self._jobs.values() if (job.owner, job.folder) == (owner, folder)]:
                self.files.forget(job)
                self._set(job, state="deleted", words=job.words[:1])

    def ahead(self, job: Job) -> int:
        """How many jobs there are before a waiting one, at most."""
        with self._lock:
            return sum(other.number < job.number for other in self._of_state(*ACTIVE))

    def stop(self, owner: str, number: int) -> None:
        """Take a job out of the queue, or ask its process to end; of another owner nothing is stopped."""
        with self._lock:
            job = self._jobs.get(number)
            if job is None or job.owner != owner:
                return
            if job.state == "waiting":
                self._set(job, state="stopped")
            elif job.state == "running" and self._lives(job):
                os.kill(job.pid, signal.SIGTERM)
                self._set(job, state="stopping")

    def tick(self) -> None:
        """See what has ended, and begin what is next."""
        with self._lock:
            for job in self._of_state("running", "stopping"):
                self._look_at(job)
            waiting = self._of_state("waiting")
            if waiting and not self._of_state("running", "stopping"):
                self._begin(min(waiting, key=lambda job: (self._turns.get(job.owner, 0), job.number)))

    def _of_state(self, *states: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.state in states]

    def _set(self, job: Job, **changes: object) -> Job:
        job = replace(job, **changes)  # type: ignore[arg-type]
        self.files.write(job)
        self._jobs[job.number] = job
        return job

    def _begin(self, job: Job) -> None:
        code = self.files.code(job)
        code.unlink(missing_ok=True)
        with self.files.log(job).open("ab") as log:
            try:
                process = subprocess.Popen(
                    self._command(job, code), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except (OSError, ValueError) as error:  # others must have their turn
                log.write(f"{error}\n".encode())
                self._set(job, state="failed")
                return
        self._own[job.number] = process
        self._turns[job.owner] = 1 + max(self._turns.values(), default=0)
        self._set(job, state="running", pid=process.pid, born=born(process.pid))

    def _lives(self, job: Job) -> bool:
        """Of a process that an earlier page began nothing is known where it has no time that it began at."""
        process = self._own.get(job.number)
        return process.poll() is None if process else job.born != "" and born(job.pid) == job.born

    def _look_at(self, job: Job) -> None:
        if self._lives(job):
            return
        process = self._own.pop(job.number, None)
        self._set(job, state=self._ending(job, process))

    def _ending(self, job: Job, process: subprocess.Popen | None) -> State:
        """How a job that lives no more has ended: whoever asked a process to, it is stopped, and can go on."""
        code = self.files.code(job)
        ended = code.read_text().strip() if code.exists() else ""
        killed = process is not None and process.returncode == -signal.SIGTERM
        if job.state == "stopping" or killed or ended == str(STOPPED):
            return "stopped"
        return "done" if ended == "0" else "failed"
