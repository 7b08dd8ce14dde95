# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Words that a tokenizer is taught: each is a run of token ids behind those of the vocabulary.

    {"sks": range(49408, 49411)}     "a photo of sks dog"  ->  ... of  49408 49409 49410  dog ...

A word counts where it stands by itself, in upper or lower case: not as a part of a longer word. It counts more than
what the vocabulary has for it, and a longer one more than a shorter one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from dreambooth_jax.errors import InputError

LONGEST = 200
"""Characters of a word."""
SYNTAX = "()[]{}\\|:,"
"""Signs that mean something else in prompts."""
Words = Mapping[str, range]
"""Word -> the ids of its vectors."""


def check_word(word: str) -> str:
    """The word, without blanks around it.

    Raises:
        InputError: if no prompt could have it.
    """
    word = " ".join(word.split())
    if not word or len(word) > LONGEST or not word.isprintable() or any(sign in SYNTAX for sign in word):
        raise InputError(
            f"{word[:40]!r} cannot be a new word: it needs 1 to {LONGEST} signs, none of {' '.join(SYNTAX)}"
        )
    return word


def joined(known: Words, new: Words) -> dict[str, range]:
    """Both.

    Raises:
        InputError: if a word is in both.
    """
    names = {word.casefold() for word in known}
    for word in new:
        if word.casefold() in names:
            raise InputError(f"the word {word!r} has vectors already: choose another, as in WORD=FILE")
    return {**known, **new}


def split(text: str, words: Words) -> Iterator[tuple[int, str, str | None]]:
    """(where it begins, piece of the text, the word that it is or None) in order; nothing is left out."""
    end = 0
    for match in _pattern(tuple(words)).finditer(text) if words else ():
        if match.start() > end:
            yield end, text[end : match.start()], None
        number = next(number for number, group in enumerate(match.groups()) if group is not None)
        yield match.start(), match[0], _longest_first(words)[number]
        end = match.end()
    if end < len(text):
        yield end, text[end:], None


def _longest_first(words: Iterable[str]) -> list[str]:
    return sorted(words, key=len, reverse=True)


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """A group for each word."""

    def alone(word: str) -> str:
        inner = r"\s+".join(map(re.escape, word.split()))
        before = r"(?<!\w)" if re.match(r"\w", word) else ""
        after = r"(?!\w)" if re.search(r"\w$", word) else ""
        return f"({before}{inner}{after})"

    return re.compile("|".join(map(alone, _longest_first(words))), re.IGNORECASE)
