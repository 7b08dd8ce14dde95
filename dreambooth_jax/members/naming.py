# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Names of members: folders that can be read, typed and told apart. They depend on a member's own values alone.

learning_rate-1e-6_steps-600_seed-0
"""

import re
import zlib
from collections.abc import Sequence

from dreambooth_jax.errors import InputError
from dreambooth_jax.members.axes import Axis, Choice

LONGEST = 80
"""Signs of a name."""
ALONE = "run"
"""Who is trained where nothing is varied but how pictures are drawn."""


def names_of(axes: Sequence[Axis], cells: Sequence[Sequence[Choice]]) -> list[str]:
    """A name for each combination of choices, one of each axis; all differ, also where capitals do not count.

    Raises:
        InputError: if words would have one folder.
    """
    for axis in axes:
        _check_apart(axis)
    last = [axis.key.rpartition(".")[2] for axis in axes]
    keys = [axis.key if last.count(short) > 1 else short for axis, short in zip(axes, last)]
    names = ["_".join(_part(*one) for one in zip(axes, keys, cell)) for cell in cells]
    names = [_short(name) or ALONE for name in names]
    lower = [name.lower() for name in names]
    return [f"{name}-{_digest(cell)}" if lower.count(name.lower()) > 1 else name for name, cell in zip(names, cells)]


def labels_of(axes: Sequence[Axis], cell: Sequence[Choice]) -> list[str]:
    """What a member is called in tables: ``learning_rate=1e-6``, a part for each axis."""
    return [
        f"{axis.key.rpartition('.')[2]}={choice.text}" if axis.is_setting else choice.text
        for axis, choice in zip(axes, cell)
    ]


def _part(axis: Axis, key: str, choice: Choice) -> str:
    """What a choice is called. A value that no folder can be called after has a digest, whether or not another one is
    there that is called alike: so it keeps its folder when that is added."""
    text, word = choice.text, _word(choice)
    if not word or (axis.is_setting and word != text.lower()):
        word = "-".join(filter(None, [word, f"{zlib.crc32(text.encode()):08x}"]))
    return f"{key}-{word}" if axis.is_setting else word


def _word(choice: Choice) -> str:
    return re.sub(r"[^\w.+-]+", "-", choice.text).strip("-.")


def _check_apart(axis: Axis) -> None:
    """Raise InputError if of words, such as names of subjects, two would have one folder."""
    seen: dict[str, str] = {}
    for choice in () if axis.is_setting else axis.choices:
        word = _word(choice)
        if word and (other := seen.setdefault(word.lower(), choice.text)) != choice.text:
            raise InputError(f"{axis.key}: {other!r} and {choice.text!r} would have one folder: call one otherwise")


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{zlib.crc32(name.encode()):08x}"


def _digest(cell: Sequence[Choice]) -> str:
    return f"{zlib.crc32(repr([choice.told for choice in cell]).encode()):08x}"
