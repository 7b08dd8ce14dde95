# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Axes -> members: one for each combination, with a folder of its own. Those of one class share its class images."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import prod
from pathlib import Path

from dreambooth_jax.checks import problems
from dreambooth_jax.config import Config, SamplingConfig, load_config
from dreambooth_jax.config.concepts import concepts_of, makes_class_images
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import Axis
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
        InputError: if there are too many, or one's settings cannot work; then it is named.
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


def with_shared_class_images(members: Sequence[Member], *, folder: Path) -> tuple[Member, ...]:
    """Members whose class images are made in one way have them in one folder, in ``class_images`` of the set's unless
    told otherwise. Subjects of one class share them, and so do all rates of a sweep."""
    recipes = {member.name: _recipe(member.config) for member in members}
    usual = next((rest for _, rest in recipes.values()), "")
    found = []
    for member in members:
        config, (prompt, rest) = member.config, recipes[member.name]
        if config.data.concepts or not makes_class_images(config):
            found.append(member)
            continue
        own = config.prior.class_images
        several = len({recipes[one.name] for one in members if one.config.prior.class_images == own}) > 1
        word = _word(prompt) + ("" if rest == usual else f"-{zlib.crc32(rest.encode()):08x}")
        place = Path(own or folder / "class_images") / (word if several or not own else "")
        found.append(
            Member(name=member.name, config=replace(config, prior=replace(config.prior, class_images=str(place))))
        )
    return tuple(found)


def _recipe(config: Config) -> tuple[str, str]:
    """What a member's class images are made with: (prompt, all else)."""
    (concept, *_), prior = concepts_of(config), config.prior
    subject = Subject(identifier=concept.identifier, class_noun=concept.class_noun)
    sampling = {name: value for name, value in asdict(prior).items() if name in SamplingConfig.__dataclass_fields__}
    rest = [sampling, prior.seed, asdict(config.model), config.data.size]
    # real pictures of a class, of which none are made, are one collection whatever they are called
    made = prior.num_images > 0
    prompt = subject.fill(concept.class_images_prompt, syntax=prior.prompt_syntax)
    return (prompt, repr(rest)) if made else ("", "")


def _word(prompt: str) -> str:
    words = "_".join(re.findall(r"\w+", prompt.lower()))
    return words if len(words) <= 60 else f"{words[:50]}_{zlib.crc32(prompt.encode()):08x}"
