# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts that change from step to step, by A1111's rules.

    [a:b:0.5]   a, and b when half of the steps are taken; [a:b:10] when ten of them are
    [b:0.5]     nothing before, as [:b:0.5]         [a::0.5]   nothing afterwards
    [a|b|c]     a in the first step, b in the second, c in the third, a in the fourth

They nest. Brackets that are none of these are let be: :mod:`.emphasis` reads them. What follows a backslash is no sign.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.limits import check_length
from dreambooth_jax.prompts.options import END, pieces_of, text_of

MOST_CHANGES = 500
"""Brackets of a prompt that change it."""
MOST_TEXTS = 256
"""Texts that a prompt is in the course of a run: each is encoded and kept."""
NEVER = -2
_TOKEN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|\\|[\[\]():|]", re.DOTALL)
_WHEN = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*")


class Timeline(NamedTuple):
    """What a prompt is in each step.

    Attributes:
        texts: the different ones, in the order in which they come.
        of_step: for each step which of them.
    """

    texts: tuple[str, ...]
    of_step: tuple[int, ...]


class Change(NamedTuple):
    """A bracket that changes. Its options are numbered; what belongs to none is left out.

    Attributes:
        kind: edit has two options, before and after; turns has as many as are written.
        last: of an edit the last step, from 1 on, of the first option; of turns the number of options.
    """

    kind: Literal["edit", "turns"]
    last: int

    def option(self, step: int) -> int:
        """The option of a step, from 1 on."""
        return int(step > self.last) if self.kind == "edit" else (step - 1) % self.last


@dataclass
class _Bracket:
    """One that is open: where it and its separators stand."""

    sign: str
    start: int
    separators: list[int] = field(default_factory=list)


def timeline(prompt: str, steps: int, *, passed: int | None = None) -> Timeline:
    """The texts of a prompt in a run of some steps.

    Args:
        prompt: the prompt.
        steps: how many.
        passed: steps of the first pass, in a second one: fractions from 1 to 2 are of the second, and numbers count on.

    Raises:
        InputError: for a prompt that is too long, or changes more often than anyone would write.
    """
    check_length(prompt)
    tokens = _TOKEN.findall(prompt)
    changes, roles = _changes(tokens, partial(_last_step, steps=steps, passed=passed))
    if len(changes) > MOST_CHANGES:
        raise InputError(f"a prompt has {len(changes)} of [a:b:0.5] and [a|b]: it may have {MOST_CHANGES}")
    pieces = pieces_of(tokens, roles)
    numbers: dict[tuple[int, ...], int] = {}
    texts: dict[str, int] = {}
    index = []
    for step in range(1, steps + 1):
        options = tuple(change.option(step) for change in changes)
        if options not in numbers:
            if len(numbers) == MOST_TEXTS:
                raise InputError(f"a prompt is {MOST_TEXTS + 1} different texts or more: it may be {MOST_TEXTS}")
            numbers[options] = texts.setdefault(text_of(pieces, options), len(texts))
        index.append(numbers[options])
    return Timeline(tuple(texts), tuple(index))


def _changes(tokens: Sequence[str], last: Callable[[str], int]) -> tuple[list[Change], dict[int, tuple[int, int]]]:
    """The brackets that change, and roles: token -> (number of the change, option that begins there).

    That of a bracket's end is END, that of the number in an edit NEVER.
    """
    changes: list[Change] = []
    roles: dict[int, tuple[int, int]] = {}
    opened: list[_Bracket] = []
    count = {"[": 0, "(": 0}
    for number, token in enumerate(tokens):
        if token in count:
            opened.append(_Bracket(token, number))
            count[token] += 1
        elif token in "|:" and opened:
            opened[-1].separators.append(number)
        elif token in "])":
            sign = "[" if token == "]" else "("
            well_formed = opened and opened[-1].sign == sign
            bracket = None
            while count[sign] and (bracket is None or bracket.sign != sign):  # others within are not closed
                bracket = opened.pop()
                count[bracket.sign] -= 1
            if bracket and well_formed and sign == "[" and (found := _change(tokens, bracket, number, last)):
                change, options = found
                roles |= {place: (len(changes), option) for place, option in options.items()}
                changes.append(change)
    return changes, roles


def _change(
    tokens: Sequence[str], bracket: _Bracket, end: int, last: Callable[[str], int]
) -> tuple[Change, dict[int, int]] | None:
    """What a closed bracket is, and where its options begin; None if it does not change."""
    places = bracket.separators
    signs = {tokens[place] for place in places}
    if signs == {"|"}:
        starts = [bracket.start, *places]
        return Change("turns", len(starts)), {place: i for i, place in enumerate(starts)} | {end: END}
    when = _WHEN.fullmatch(tokens[end - 1])
    if signs != {":"} or len(places) > 2 or places[-1] != end - 2 or not when:
        return None
    first, *second = places
    options = {bracket.start: 0, first: 1} if second else {bracket.start: 1}
    return Change("edit", last(when[1])), options | {places[-1]: NEVER, end: END}


def _last_step(when: str, *, steps: int, passed: int | None) -> int:
    """A fraction of the steps if it has a point, or else their number."""
    number = float(when)
    if "." in when:
        number = (number - (passed is not None)) * steps
    else:
        number -= passed or 0
    return math.trunc(min(max(number, -1.0), float(steps)))
