# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
r"""Prompts of which a part is drawn for each picture, from its seed: the same seed gives the same text.

    {red|green|blue}     one of them       {3::red|green}     red three times as often       {red|}     red or nothing
    __colours__          a line of the file colours.txt in the folder of wildcards           \{ \| \}   the sign itself

This is the syntax of the Dynamic Prompts extension of A1111. Lines of files may hold wildcards. They are drawn before
anything else is read. Braces without a ``|`` are text, and so is a ``|`` in square brackets, which means turns.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from dreambooth_jax.data.host_rng import uniform
from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.limits import LONGEST, check_length
from dreambooth_jax.prompts.options import END, pieces_of, text_of
from dreambooth_jax.text_files import read_lines

Side: TypeAlias = Literal["prompt", "negative"]

DEEPEST = 16
"""How often what was drawn may hold something to draw."""
LARGEST_FILE = 10_000_000
"""Bytes of a file of wildcards."""
_TOKEN = re.compile(r"\\.|[{}|\[\]]|[^\\{}|\[\]]+|\\", re.DOTALL)
_WEIGHT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)::")
_NAME = re.compile(r"(?<![\\_])__([^\W_](?:[\w/-]{0,200}?[^\W_])?)__(?!_)")


def draw(prompt: str, *, seed: int, folder: str | None = None, side: Side = "prompt") -> str:
    """The prompt of a picture.

    Args:
        prompt: with wildcards.
        seed: of the picture.
        folder: of files, without which a prompt may not name one.
        side: a negative prompt is drawn by itself.

    Raises:
        InputError: for a file that is not there, wildcards that go round in circles, or too long a text.
    """
    for depth in range(DEEPEST):
        check_length(prompt)
        name = ("wildcards", seed, side, depth)
        before, prompt = prompt, _choose(prompt, name)
        parts = _NAME.split(prompt)  # text, name, text, name, ..., text
        if len(parts) > 1:
            parts[1::2] = _lines(parts[1::2], folder, name)
            if sum(map(len, parts)) > LONGEST:
                raise InputError(f"a prompt has more than {LONGEST} characters with its wildcards: write less of them")
            prompt = "".join(parts)
        elif prompt == before:
            return prompt
    raise InputError(f"wildcards hold wildcards that hold wildcards, {DEEPEST} times: do they go round in circles?")


def literal(text: str) -> str:
    r"""A prompt in which nothing is drawn: braces and doubled underlines get a backslash, unless they have one."""
    return re.sub(
        r"\\.|[{}]|__", lambda match: match[0] if match[0][0] == "\\" else f"\\{match[0]}", text, flags=re.DOTALL
    )


def _choose(prompt: str, name: tuple[str | int, ...]) -> str:
    """With one option of all braces."""
    tokens = _TOKEN.findall(prompt)
    roles: dict[int, tuple[int, int]] = {}
    weights: list[list[float]] = []
    opened: list[tuple[str, int, list[int]]] = []
    for number, token in enumerate(tokens):
        if token in "{[":
            opened.append((token, number, []))
        elif token == "|" and opened:
            opened[-1][2].append(number)
        elif token in "]}" and opened and opened[-1][0] == {"]": "[", "}": "{"}[token]:
            sign, start, bars = opened.pop()
            if sign == "{" and bars:
                starts = [start, *bars]
                roles |= {place: (len(weights), i) for i, place in enumerate(starts)} | {number: (len(weights), END)}
                weights.append([_weight(tokens, place) for place in starts])
    if not weights:
        return prompt
    numbers = uniform(len(weights), *name, "braces")
    return text_of(pieces_of(tokens, roles), [_index(some, number) for some, number in zip(weights, numbers)])


def _weight(tokens: list[str], start: int) -> float:
    """Of the option that begins behind a token; it is taken out of the text."""
    match = _WEIGHT.match(tokens[start + 1])
    if not match:
        if re.match(r"\s*[\d-]*\$\$", tokens[start + 1]):
            raise InputError(
                f"{{{tokens[start + 1][:40]!r}...}} draws several at once: write as many braces, one for each"
            )
        return 1.0
    tokens[start + 1] = tokens[start + 1][match.end() :]
    return float(match[1])


def _index(weights: Sequence[float], number: float) -> int:
    total = np.cumsum(weights)
    if not 0 < total[-1] < np.inf:
        raise InputError(f"an option of {{a|b}} must have a weight above 0 and below infinity: they are {weights[:10]}")
    return int(np.searchsorted(total, number * total[-1], side="right"))


def _lines(files: Sequence[str], folder: str | None, name: tuple[str | int, ...]) -> list[str]:
    """A line of each file."""
    if folder is None:
        raise InputError(
            f"a prompt has __{files[0]}__, but no folder: tell wildcards=FOLDER, or write \\__{files[0]}__"
        )
    read = {file: _read(Path(folder), file) for file in set(files)}
    numbers = uniform(len(files), *name, "files")
    return [read[file][int(number * len(read[file]))] for file, number in zip(files, numbers)]


def _read(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.txt"
    if not path.is_file():
        there = [str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.txt")]
        near = difflib.get_close_matches(name, there, n=1)
        raise InputError(f"{path} is not there" + (f"; did you mean __{near[0]}__?" if near else ""))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} leads out of the folder of wildcards: copy the file into it")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size} bytes, of which {LARGEST_FILE} may be: shorten it")
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    for line in lines:
        check_length(line, name=f"a line of {path}")
    if not lines:
        raise InputError(f"{path} has no lines: write one wildcard on each")
    return lines
