# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Axes -> members: one for each combination, with a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path

from dreambooth_jax.checks import problems
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import Axis
from dreambooth_jax.members.class_images import with_shared_class_images
from dreambooth_jax.members.member import Member
from dreambooth_jax.members.naming import labels_of, names_of

MOST = 1024
"""Members of a set."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A member's place among all combinations.

    Attributes:
        name: of the member.
        place: number of its choice on each axis.
        labels: what it is called in tables, a part for each axis.
    """

    name: str
    place: tuple[int, ...]
    labels: tuple[str, ...]


def expand(
    options: Sequence[str], axes: Sequence[Axis], *, folder: Path, within: str
) -> tuple[tuple[Member, ...], tuple[Cell, ...]]:
    """(members, their places), the last axis' choices one after the other.

    Args:
        options: settings of all, ``--KEY=VALUE``; ``--config=FILE`` may be among them.
        axes: what they differ in.
        folder: of the set.
        within: name of the folder in it that has the members' own.

    Raises:
        InputError: if there are too many, one's settings cannot work (then it is named), or a folder of class images
            holds pictures, and it is not known which members they are for.
    """
    load_config(None, options)  # what is wrong for all is no member's
    count = prod(len(axis.choices) for axis in axes)
    if count > MOST:
        raise InputError(
            f"{' x '.join(str(len(axis.choices)) for axis in axes)} are {count} members; {MOST} are the most"
        )
    places = list(product(*(range(len(axis.choices)) for axis in axes)))
    chosen = [[axis.choices[number] for axis, number in zip(axes, place)] for place in places]
    members = []
    for name, some in zip(names_of(axes, chosen), chosen):
        told = [option for choice in some for option in choice.told]
        try:
            config = _own(load_config(None, [*options, "data.subjects=null", *told]), folder / within / name)
            for problem in problems(config):
                raise InputError(problem)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        members.append(Member(name=name, config=config))
    cells = [
        Cell(name=member.name, place=place, labels=tuple(labels_of(axes, some)))
        for member, place, some in zip(members, places, chosen)
    ]
    return with_shared_class_images(members, folder=folder), tuple(cells)


def _own(config: Config, run_dir: Path) -> Config:
    return replace(config, run_dir=str(run_dir))
