# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How a folder is saved over: all of it, or nothing."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreambooth_jax.errors import InputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder that becomes ``target``, or whose entries take their places in it, when the block ends well.

    It lies on the target's disk, so that moving is renaming. If the block fails, on a full disk say, what ``target``
    held is untouched; entries of other names always are.

    Raises:
        InputError: if the disk is full, the place cannot be written to, or ``target`` is a file.
    """
    target = target.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: choose a folder to save to")
    try:
        home = target if target.is_dir() else target.parent
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=home, ignore_cleanup_errors=True) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            old.mkdir()
            yield new
            _take_places(new, target, old)
    except OSError as error:
        raise InputError(f"{target} could not be saved, what was there before still is: {error}") from error


def _take_places(new: Path, target: Path, old: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    try:
        for entry in sorted(new.iterdir()):
            if (target / entry.name).exists():
                (target / entry.name).rename(old / entry.name)
            entry.rename(target / entry.name)
    finally:
        for entry in old.iterdir():  # interrupted between the two
            if not (target / entry.name).exists():
                entry.rename(target / entry.name)
