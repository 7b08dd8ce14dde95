# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts of any length as chunks, each of which the text encoder reads by itself, by A1111's rules.

    <|startoftext|> 75 tokens <|endoftext|>   <|startoftext|> the rest <|endoftext|> pad pad ...

A chunk that is full ends with its last comma instead, if that is one of its last 20 tokens: so that what stands between
two commas is read together. ``BREAK`` ends a chunk, full or not. The vectors of an added word are in one chunk. The
text states of all chunks follow each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64, Int32

from dreambooth_jax.data.tokenizer import Tokenizer
from dreambooth_jax.prompts.emphasis import sections

BACK_OFF = 20
"""Tokens that may move to the next chunk for a comma's sake."""
Weighted: TypeAlias = tuple[int, float]
"""A token's id and weight."""


class Chunks(NamedTuple):
    """A prompt as the text encoder reads it."""

    ids: Int32[np.ndarray, "k n"]
    weights: Float64[np.ndarray, "k n"]
    """Of each token; 1 of those that begin, end and pad."""


def read_chunks(prompt: str, tokenizer: Tokenizer) -> Chunks:
    """A prompt with emphasis and BREAK, in at least one chunk.

    Raises:
        InputError: for a prompt that is too long, or a weight that is too large.
    """
    parts = sections(prompt)
    ids = iter(tokenizer.words([part.text for section in parts for part in section]))
    tokens = [[token for part in section for token in zip(next(ids), repeat(part.weight))] for section in parts]
    room = tokenizer.max_length - 2
    filled = list(fill(tokens, room=room, comma=tokenizer.comma, together=tokenizer.vectors))
    return Chunks(
        ids=np.asarray([tokenizer.framed([token for token, _ in chunk]) for chunk in filled], np.int32),
        weights=np.asarray([_framed(chunk, tokenizer.max_length) for chunk in filled], np.float64),
    )


def _framed(chunk: Sequence[Weighted], length: int) -> list[float]:
    return [1.0, *(weight for _, weight in chunk), *[1.0] * (length - 1 - len(chunk))]


def pad_chunks(chunks: Chunks, count: int, tokenizer: Tokenizer) -> Chunks:
    """As many chunks as ``count``, with those of the empty prompt at the end."""
    empty = read_chunks("", tokenizer)
    missing = count - len(chunks.ids)
    return Chunks(*(np.concatenate([own, np.repeat(none, missing, axis=0)]) for own, none in zip(chunks, empty)))


def fill(
    tokens: Sequence[Sequence[Weighted]],
    *,
    room: int,
    comma: int | None,
    back_off: int = BACK_OFF,
    together: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[list[Weighted]]:
    """Chunks of at most ``room`` tokens: one or more of each section.

    Args:
        tokens: of each section. The last one has no chunk of its own if it is empty and not the only one.
        room: tokens of a chunk.
        comma: the token that a chunk should end with; None if the tokenizer has none.
        back_off: how many of a full chunk's last tokens may move to the next one.
        together: token -> how many tokens, from it on, are in one chunk; ``room`` at most.
    """
    for number, section in enumerate(tokens):
        chunk: list[Weighted] = []
        end = 0  # of what may stay in a chunk that is full: behind its last comma
        for token in section:
            if len(chunk) == room:
                cut = end if token[0] != comma and end > 0 and room - end < back_off else room
                yield chunk[:cut]
                chunk, end = chunk[cut:], 0
            if len(chunk) + together.get(token[0], 1) > room:
                yield chunk
                chunk, end = [], 0
            if token[0] == comma:
                end = len(chunk) + 1
            chunk.append(token)
        if chunk or number < len(tokens) - 1 or len(tokens) == 1:
            yield chunk
