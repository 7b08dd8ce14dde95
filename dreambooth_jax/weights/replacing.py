# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How files are saved over those of a folder: all of them, or none, and no others are touched."""

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home


@contextmanager
def replacing(target: Path, *, superseded: Collection[str] = ()) -> Iterator[Path]:
    """A new folder that becomes ``target``, or whose files take their places in it, when the block ends well.

    It lies on the target's disk, so that moving is renaming. If the block fails, on a full disk say, what ``target``
    held is untouched; files of other names always are.

    Args:
        target: the folder.
        superseded: files of it to remove when the new ones take their places, relative to it.

    Raises:
        InputError: if the disk is full, the place cannot be written to, or ``target`` is a file.
    """
    target = at_home(target).resolve()
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
            if target.exists():
                _take_places(new, target, old, superseded)
            else:
                new.rename(target)
    except OSError as error:
        raise InputError(f"{target} could not be saved, what was there before still is: {error}") from error


def _take_places(new: Path, target: Path, old: Path, superseded: Collection[str]) -> None:
    """File by file; if one of the renames fails, all are taken back."""
    files = sorted(file.relative_to(new) for file in new.rglob("*") if file.is_file())
    aside: list[Path] = []
    placed: list[Path] = []

    def lay_aside(entry: Path) -> None:
        (old / entry).parent.mkdir(parents=True, exist_ok=True)
        (target / entry).rename(old / entry)
        aside.append(entry)

    try:
        for file in files:
            for parent in reversed(file.parents[:-1]):
                if (target / parent).is_symlink():  # what it leads to is somebody else's
                    lay_aside(parent)
                (target / parent).mkdir(exist_ok=True)
            if (target / file).exists() or (target / file).is_symlink():
                lay_aside(file)
            (new / file).rename(target / file)
            placed.append(file)
        for name in superseded:
            if (target / name).exists() and Path(name) not in files:
                lay_aside(Path(name))
    except BaseException:
        for file in placed:
            (target / file).unlink(missing_ok=True)
        for entry in reversed(aside):
            _put_back(old / entry, target / entry)
        raise


def _put_back(kept: Path, place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)  # one of ours, in the place of a link
    kept.rename(place)
