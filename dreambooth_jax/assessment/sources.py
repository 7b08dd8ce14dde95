# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What can be measured: runs, models, and folders with pictures that were made elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_jax.assessment.subjects import EMBEDDED
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.data.sources import is_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.weights.folders import INDEX, local_folder

PLACES = ("*/config.yaml", "subjects/*/config.yaml", "members/*/config.yaml")
"""Of the runs of a folder, as sweeps and lists of subjects leave them."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One column of the table.

    Attributes:
        name: what it is called there.
        runs: of one method, with a subject each; none for what is no run.
        model: folder, file or hub id of a model that is no run's.
        pictures: folder with pictures made elsewhere.
    """

    name: str
    runs: tuple[Path, ...] = ()
    model: str = ""
    pictures: Path | None = None


def read_sources(places: Sequence[str]) -> list[Source]:
    """What each place is.

    Raises:
        InputError: if a local folder is nothing of it, or a name is neither a file nor a hub id.
    """
    names = _names(places)
    return [_read(place, name) for place, name in zip(places, names)]


def _read(place: str, name: str) -> Source:
    folder = at_home(place)
    if not folder.is_dir():
        if place != EMBEDDED and not folder.is_file():
            local_folder(place)  # says what is wrong with a name that is no hub id
        return Source(name=name, model=place)
    if (folder / INDEX).is_file():
        return Source(name=name, model=place)
    if RunFolder(folder).is_run():
        return Source(name=name, runs=(folder,))
    runs = sorted(found.parent for pattern in PLACES for found in folder.glob(pattern))
    if runs:
        return Source(name=name, runs=tuple(runs))
    if any(is_picture(file) for file in folder.iterdir()):
        return Source(name=name, pictures=folder)
    raise InputError(f"{place} is no run, no folder of runs, no model, and has no pictures: name one of these")


def _names(places: Sequence[str]) -> list[str]:
    """As many last parts of each path as tell them apart."""
    parts = [
        [part for part in re.split(r"[/\\]", place) if part not in ("", ".", "..")] or ["model"] for place in places
    ]
    for count in range(1, 1 + max(map(len, parts))):
        names = ["-".join(one[-count:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'-'.join(one)}-{number}" for number, one in enumerate(parts, 1)]


def first_config(sources: Sequence[Source]) -> Config | None:
    """Of the first run that there is: whose subject, where nobody tells another, is that of models and pictures."""
    runs = [run for source in sources for run in source.runs]
    return load_config(RunFolder(runs[0]).config) if runs else None
