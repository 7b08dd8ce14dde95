# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings with several values each, of which all combinations are drawn: ``steps=30,50 guidance=6,12``."""

import dataclasses
import difflib
import shlex
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple, get_args

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.files import load_yaml
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError

FIELDS = {field.name: field for field in dataclasses.fields(DrawingConfig)}
OTHERS = ("model", "step", "ema", "prompt", "seed")
"""What can be told apart from sampling: the model (a folder or hub id), the checkpoint of a run, prompts and seeds."""
ALIASES = {
    "guidance": "guidance_scale",
    "cfg": "guidance_scale",
    "prompts": "prompt",
    "seeds": "seed",
    "models": "model",
}
MOST_AXES, MOST_CELLS = 3, 1024


class Axis(NamedTuple):
    """A setting and its values."""

    name: str
    """As it was written, for labels."""
    key: str
    """The setting."""
    values: tuple[Any, ...]
    texts: tuple[str, ...]
    """The values as they were written."""

    def label(self, number: int) -> str:
        """What stands at a row or column."""
        return self.texts[number] if self.key == "prompt" else f"{self.name}={self.texts[number]}"


class Cell(NamedTuple):
    """One combination."""

    place: tuple[int, ...]
    """Number of the value of each axis."""
    told: Mapping[str, Any]
    """Setting -> value."""


def read_axes(text: str) -> list[Axis]:
    """The axes of a text. Values stand between commas, or where one has a comma between semicolons; those with blanks
    are quoted: ``sampler="DPM++ 2M Karras,Euler a"``.

    Raises:
        InputError: for a setting that there is not, naming the nearest; for a value that it cannot have; for too many.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"grid: {error} in {text[:80]!r}: put values with blanks in quotes") from error
    axes = [_axis(word) for word in words]
    keys = [axis.key for axis in axes]
    if not 1 <= len(axes) <= MOST_AXES or len(set(keys)) < len(keys):
        rule = f'write one to {MOST_AXES} different settings, such as grid="steps=30,50 guidance=6,12"'
        raise InputError(f"grid has {len(axes)} settings ({', '.join(keys)}): {rule}")
    count = prod(len(axis.values) for axis in axes)
    if count > MOST_CELLS:
        raise InputError(f"grid asks for {count} pictures: {MOST_CELLS} are the most that one sheet holds")
    return axes


def _axis(word: str) -> Axis:
    name, equals, values = word.partition("=")
    name = name.strip().removeprefix("--")
    key = ALIASES.get(name, name)
    if not equals or not values.strip(" ,;"):
        raise InputError(f"grid: {word[:80]!r} is no setting with values: write {name[:40] or 'steps'}=VALUE,VALUE")
    if key not in FIELDS and key not in OTHERS:
        known = [*FIELDS, *OTHERS, *ALIASES]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise InputError(f"grid: unknown setting {name[:40]!r}; did you mean {near[0]}?")
    texts = tuple(part.strip() for part in values.split(";" if ";" in values else ",") if part.strip())
    return Axis(name, key, tuple(_value(key, text) for text in texts), texts)


def _value(key: str, text: str) -> Any:
    """A value of a setting, checked by itself."""
    if key in ("model", "prompt"):
        return text
    if key in FIELDS:
        kind = FIELDS[key].type
        value = text if kind is str or _is_choice(kind) else load_yaml(text, name=f"grid: {key}")
        try:
            sampling = DrawingConfig().changed({key: value})
            check_arguments(sampling)
        except InputError as error:
            raise InputError(f"grid: {error}") from error
        return value
    value = load_yaml(text, name=f"grid: {key}")
    kind = bool if key == "ema" else int
    if type(value) is not kind or value < 0 or value >= 2**64:
        raise InputError(f"grid: {key} = {text[:40]}: must be {'true or false' if kind is bool else 'a whole number'}")
    return value


def _is_choice(kind: Any) -> bool:
    """Is it one of some texts?"""
    return any(isinstance(inner, str) for one in (kind, *get_args(kind)) for inner in get_args(one))


def cells_of(axes: Sequence[Axis]) -> list[Cell]:
    """All combinations, those of one model one after the other."""
    cells = [
        Cell(place, {axis.key: axis.values[number] for axis, number in zip(axes, place)})
        for place in product(*(range(len(axis.values)) for axis in axes))
    ]
    opened = [number for number, axis in enumerate(axes) if axis.key in ("model", "step", "ema")]
    return sorted(cells, key=lambda cell: [cell.place[number] for number in opened])
