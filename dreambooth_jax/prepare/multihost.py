# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What several processes must have in common: settings, pictures, weights, and one run folder.

Every function here is called by all processes together. With one process they do nothing.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.errors import InputError

VISIBLE_WITHIN = 60
"""Seconds after which what one host wrote must be seen by the others: network file systems cache their listings."""


def check_same(what: str, value: str) -> None:
    """Raise InputError, naming the processes, unless ``value`` is the same on all of them.

    Args:
        what: how to call it in the message.
        value: any text.
    """
    digests = distributed.gather(np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8))
    others = [number for number, row in enumerate(digests) if (row != digests[0]).any()]
    if others:
        raise InputError(
            f"{_processes(others)} not the same {what} as process 0: start all with the same command and files"
        )


def check_shared(folder: Path) -> None:
    """Raise InputError unless all processes see what process 0 writes to ``folder``, made if it is not there."""
    if jax.process_count() == 1:
        return
    name = distributed.gather(np.frombuffer(os.urandom(8), np.uint8))[0].tobytes().hex()
    mark = folder / f".seen-{name}"
    if not distributed.gather(distributed.is_main() and _touch(mark))[0]:
        raise InputError(f"process 0 cannot write to {folder}")
    blind = np.flatnonzero(~distributed.gather(wait_until(mark.exists)))
    if distributed.is_main():
        mark.unlink(missing_ok=True)
    if len(blind):
        raise InputError(
            f"{folder} is not one folder for all processes: {_processes(blind.tolist())} not seen what process 0 wrote "
            "there; mount one network file system at the same place on all hosts (docs/scaling.md)"
        )


def _touch(mark: Path) -> bool:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], bool]) -> bool:
    """Has ``true()`` come true within ``VISIBLE_WITHIN``?"""
    end = time.monotonic() + VISIBLE_WITHIN
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def check_hosts(config: Config, *folders: Path) -> None:
    """Raise InputError unless all processes were given the same settings and share these folders."""
    check_same("settings", json.dumps(to_dict(config)))
    for folder in folders:
        check_shared(folder)


def _processes(numbers: list[int]) -> str:
    """``process 1 has``, ``processes 1, 3 have``."""
    noun, verb = ("process", "has") if len(numbers) == 1 else ("processes", "have")
    return f"{noun} {', '.join(map(str, numbers))} {verb}"
