# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A process that trains and may kill itself on the way: SIGKILL, which nothing can prepare for.

Its moments are counted: each file or folder of the run that Python opens for writing, makes, renames or removes, on
whichever thread, and each logged step. So they lie everywhere, and as many in a write as there are files.
"""

import os
import signal
import sys
from pathlib import Path

import jax

import dreambooth_jax.trainer
from dreambooth_jax.trainer.members import run_group
from tests.members.groups import members
from tests.runs import tiny_config

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link")


class Moments:
    """Counts them, and ends the process at one."""

    def __init__(self, folder: Path, kill_at: int | None):
        self.folder, self.kill_at, self.count = str(folder), kill_at, 0

    def tick(self, *_: object) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_audit(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES and event != "open":
            return
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)) or not os.fsdecode(path).startswith(self.folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.tick()


def train(root: Path, run: Path, settings: list[str], kill_at: int | None, answer) -> None:
    """One call of ``train``; sends through the pipe whether it came to its end, and how many moments it had."""
    moments = _begin(root, run, kill_at)
    result = dreambooth_jax.trainer.train(tiny_config(root, f"run_dir={run}", *settings), listeners=[moments.tick])
    answer.send((result.finished, moments.count))


def train_group(root: Path, folder: Path, settings: list[str], kill_at: int | None, answer) -> None:
    """The same of one call of ``run_group``."""
    moments = _begin(root, folder, kill_at)
    group = members(root, folder.name, settings)
    outcomes = run_group(group, folder / "groups", listeners=[moments.tick])
    answer.send((all(one.result.finished for one in outcomes), moments.count))


def _begin(root: Path, run: Path, kill_at: int | None) -> Moments:
    """In silence, and with each moment counted."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    # a folder of its own: to be killed while writing there would leave every other test a half entry
    jax.config.update("jax_compilation_cache_dir", str(root / "compiled"))
    jax.config.update("jax_compilation_cache_max_size", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    moments = Moments(run, kill_at)
    sys.addaudithook(moments.on_audit)
    return moments
