# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
r"""Words and their weights, by A1111's rules.

    (x)  x counts 1.1 times      (x:1.3)  1.3 times      [x]  1 / 1.1 times      \( \) \[ \] \\  the sign itself

Nested weights multiply. A bracket that is not closed reaches to the end; one that was not opened is a sign like others.
Round and square brackets are paired apart from each other. ``BREAK`` begins a new chunk of tokens.

compel, which diffusers recommends, is other mathematics: ``word++``, and states blended with those of a masked prompt.
"""

import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from dreambooth_jax.errors import InputError
from dreambooth_jax.prompts.limits import check_length

ROUND, SQUARE = 1.1, 1 / 1.1
LARGEST_WEIGHT = 100.0
"""Beyond it nothing of the other words is left."""
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_TOKEN = re.compile(rf"\\[()\[\]\\]?|[(\[)\]]|:\s*({_NUMBER})\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")


class Part(NamedTuple):
    """Text whose tokens have one weight."""

    text: str
    weight: float


def sections(prompt: str) -> list[list[Part]]:
    """The parts of a prompt, in sections that BREAK divides; each section has one at least.

    Raises:
        InputError: for a prompt that is too long, or a weight that is too large.
    """
    check_length(prompt)
    texts, spans = _read(prompt)
    weights = _weights(len(texts), spans)
    if not (np.abs(weights) <= LARGEST_WEIGHT).all():
        heaviest = weights[np.argmax(~(np.abs(weights) <= LARGEST_WEIGHT))]
        raise InputError(f"a prompt has a word of weight {heaviest:g}: weights go up to {LARGEST_WEIGHT:g}")
    found: list[list[Part]] = [[]]
    for text, weight in zip(texts, weights.tolist()):
        if text is None:
            found.append([])
        elif found[-1] and found[-1][-1].weight == weight:
            found[-1][-1] = Part(found[-1][-1].text + text, weight)
        else:
            found[-1].append(Part(text, weight))
    return [section or [Part("", 1.0)] for section in found]


def escaped(text: str) -> str:
    r"""The prompt that is this text in A1111, with a backslash before brackets and backslashes."""
    return re.sub(r"([()\[\]\\])", r"\\\1", text)


def _read(prompt: str) -> tuple[list[str | None], list[tuple[int, int, float]]]:
    """(texts, with None for BREAK; (first, end, factor) of brackets, in the order in which they close)."""
    texts: list[str | None] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    spans: list[tuple[int, int, float]] = []
    for match in _TOKEN.finditer(prompt):
        token, number = match[0], match[1]
        if token.startswith("\\"):
            texts.append(token[1:])
        elif token in opened:
            opened[token].append(len(texts))
        elif (number or token == ")") and opened["("]:
            spans.append((opened["("].pop(), len(texts), float(number) if number else ROUND))
        elif token == "]" and opened["["]:
            spans.append((opened["["].pop(), len(texts), SQUARE))
        else:
            texts += _broken(token)
    left = ((first, factor) for kind, factor in (("(", ROUND), ("[", SQUARE)) for first in opened[kind])
    return texts, spans + [(first, len(texts), factor) for first, factor in left]


def _broken(text: str) -> list[str | None]:
    """Text with None in the place of each BREAK and the blanks around it."""
    first, *others = _BREAK.split(text)
    texts: list[str | None] = [first]
    for other in others:
        texts[-1] = (texts[-1] or "").rstrip()
        texts += [None, other.lstrip()]
    return texts


def _weights(count: int, spans: list[tuple[int, int, float]]) -> Float64[np.ndarray, "n"]:
    weights = np.ones(count)
    with np.errstate(over="ignore", invalid="ignore"):
        for first, end, factor in spans:
            weights[first:end] *= factor
    return weights
