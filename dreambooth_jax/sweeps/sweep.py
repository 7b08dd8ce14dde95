# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A set of members as it stands in its folder, for whoever works on a part of it, in this process or another.

sweep.json       axes and cells         jobs/           settings of each member, and who trains which
class_images/    of all                 subjects/dog6/  or members/seed-0/: a run folder each
overview.json, overview.md, grid.png    what came of it
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax import distributed
from dreambooth_jax.config import load_config, save_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.members.axes import Axis
from dreambooth_jax.members.expand import Cell
from dreambooth_jax.prepare.multihost import check_shared
from dreambooth_jax.text_files import read_text, write_text

JOBS, FILE = "jobs", "sweep.json"


@dataclass(frozen=True, kw_only=True)
class AxisNames:
    """An axis as tables need it.

    Attributes:
        key: the setting, or a word.
        texts: its values.
    """

    key: str
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A set of members.

    Attributes:
        folder: of all.
        within: name of the folder in it that has the members' own.
        axes: what members differ in.
        cells: the members.
        grid: settings of sampling, as ``sample --grid`` takes them, of which all combinations are drawn; may be empty.
    """

    folder: Path
    within: str
    axes: tuple[AxisNames, ...]
    cells: tuple[Cell, ...]
    grid: str = ""

    def run_dir(self, name: str) -> Path:
        """A member's folder."""
        return self.folder / self.within / name

    def member(self, name: str) -> Member:
        """A member, as it was written to be trained."""
        return Member(name=name, config=load_config(self._settings(name)))

    def _settings(self, name: str) -> Path:
        return self.folder / JOBS / f"{name}.yaml"

    def write(self, members: Sequence[Member]) -> None:
        """Write all that who works on a part needs to know. Process 0 does, and the others wait for it.

        Raises:
            InputError: if not all processes see the folder.
        """
        if distributed.is_main():
            (self.folder / JOBS).mkdir(parents=True, exist_ok=True)
            for member in members:
                save_config(self._settings(member.name), member.config)
            contents: dict[str, Any] = {name: value for name, value in asdict(self).items() if name != "folder"}
            write_text(self.folder / FILE, json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
        check_shared(self.folder)


def axis_names(axes: Sequence[Axis]) -> tuple[AxisNames, ...]:
    """What tables need of axes."""
    return tuple(AxisNames(key=axis.key, texts=tuple(choice.text for choice in axis.choices)) for axis in axes)


def read_sweep(folder: Path) -> Sweep:
    """The set whose folder it is.

    Raises:
        InputError: if it is none.
    """
    try:
        found: Mapping[str, Any] = json.loads(read_text(folder / FILE))
        return Sweep(
            folder=folder,
            within=found["within"],
            axes=tuple(AxisNames(key=axis["key"], texts=tuple(axis["texts"])) for axis in found["axes"]),
            cells=tuple(
                Cell(name=cell["name"], place=tuple(cell["place"]), labels=tuple(cell["labels"]))
                for cell in found["cells"]
            ),
            grid=found["grid"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is not what a sweep has written: start it again") from error
