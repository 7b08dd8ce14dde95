# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Texts with brackets of which one option at a time is read; brackets nest, and nothing here recurses."""

from collections.abc import Sequence
from typing import NamedTuple

END = -1


class Piece(NamedTuple):
    """Text, or where an option begins.

    Attributes:
        text: empty where an option begins.
        around: number of the piece with which the option around it begins; -1 where there is none.
        change: number of the change that has the option; -1 of text.
        option: its number.
    """

    text: str
    around: int
    change: int = -1
    option: int = -1


def pieces_of(tokens: Sequence[str], roles: dict[int, tuple[int, int]]) -> list[Piece]:
    """A text without the signs that change it; each piece after the one around it.

    Args:
        tokens: the text.
        roles: token -> (number of the bracket, option that begins there); at a closing bracket the option is END.
    """
    pieces: list[Piece] = []
    outside: list[int] = []  # of each bracket that is open: what is around it
    around = -1
    for number, token in enumerate(tokens):
        if number not in roles:
            pieces.append(Piece(token, around))
            continue
        change, option = roles[number]
        if token in "[{":
            outside.append(around)
        if option == END:
            around = outside.pop()
        else:
            around = len(pieces)
            pieces.append(Piece("", outside[-1], change, option))
    return pieces


def text_of(pieces: Sequence[Piece], options: Sequence[int]) -> str:
    """The text where each change has one of its options."""
    seen: list[bool] = []
    for piece in pieces:
        chosen = piece.change < 0 or options[piece.change] == piece.option
        seen.append(chosen and (piece.around < 0 or seen[piece.around]))
    return "".join(piece.text for piece, is_seen in zip(pieces, seen) if is_seen)
