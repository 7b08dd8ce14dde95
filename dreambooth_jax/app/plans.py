# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What runs need before they begin, found out by a process of its own: one at a time, each thing once.

The page never waits for it: it asks what is known so far. Who asks for something else gives up what was before.
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Words = tuple[str, ...]
Command = Callable[[Words], Sequence[str]]


def command_of(words: Words) -> list[str]:
    """The words of its process."""
    return [sys.executable, "-m", "dreambooth_jax.app.estimate", *words]


class Told(NamedTuple):
    """What is known of a run.

    Attributes:
        known: what ``estimate`` has told.
        since: seconds since it is being found out; None before and after.
        done: is nothing more to come?
    """

    known: dict[str, Any]
    since: float | None
    done: bool


class Plans:
    """What is known of runs.

    Args:
        folder: for what is found out.
        command: what finds it out.
    """

    def __init__(self, folder: Path, *, command: Command = command_of):
        self._folder, self._command = folder, command
        self._wanted: dict[str, Words] = {}
        self._now: tuple[Words, subprocess.Popen, float] | None = None
        self._done: set[Words] = set()
        self._lock = threading.Lock()

    def ask(self, owner: str, words: Words) -> None:
        """Want to know what a command line needs, in the place of what this owner wanted before."""
        with self._lock:
            self._wanted[owner] = words
            self._turn()

    def cancel(self, owner: str) -> None:
        """Want to know nothing."""
        with self._lock:
            self._wanted.pop(owner, None)
            self._turn()

    def told(self, owner: str) -> Told | None:
        """What is known of what this owner wants; None if nothing is wanted."""
        with self._lock:
            self._turn()
            words = self._wanted.get(owner)
            if words is None:
                return None
            since = time.monotonic() - self._now[2] if self._now and self._now[0] == words else None
            return Told(self._known(words), since, done=words in self._done)

    def _turn(self) -> None:
        """See whether the process has ended or nobody wants it any longer, and begin the next."""
        if self._now:
            words, process, _ = self._now
            if process.poll() is None and words in self._wanted.values():
                return
            if process.poll() is None:
                process.kill()
                process.wait()
            else:
                self._done.add(words)
            self._now = None
        waiting = [words for words in self._wanted.values() if words not in self._done]
        if waiting:
            self._begin(waiting[0])

    def _begin(self, words: Words) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._file(words).open("wb") as out:
            process = subprocess.Popen(
                self._command(words), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL
            )
        self._now = words, process, time.monotonic()

    def _known(self, words: Words) -> dict[str, Any]:
        try:
            lines = self._file(words).read_text().splitlines()
        except OSError:
            return {}
        known: dict[str, Any] = {}
        for line in lines:
            try:
                known |= json.loads(line)
            except ValueError:  # it is being written
                break
        return known

    def _file(self, words: Words) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]}.jsonl"
