# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""From the words of a command line to options, ``--KEY=VALUE`` each.

KEY=VALUE  --KEY=VALUE  --KEY VALUE    a setting
--                                     all words after it are what they are, also where they look like settings
any other                              a word; its verb has a place for it, or refuses it
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dreambooth_jax.errors import InputError

_SETTING = re.compile(r"([A-Za-z_][\w.-]*\+?)=.*", re.DOTALL)
_OPTION = re.compile(r"--([A-Za-z_][\w.-]*\+?)(=.*)?", re.DOTALL)
FLAGS = ("-h", "--help", "--help-all")


class Words(NamedTuple):
    """A command line, sorted.

    Attributes:
        options: ``--KEY=VALUE``, or ``--KEY`` where no value followed.
        bare: words that are no options.
        literal: words after ``--``.
        flags: those of ``FLAGS`` that are there.
    """

    options: list[str]
    bare: list[str]
    literal: list[str]
    flags: list[str]


def split(arguments: Sequence[str]) -> Words:
    """Sort the words that follow a verb."""
    words = Words([], [], [], [])
    left = list(arguments)
    while left:
        text = left.pop(0)
        if text == "--":
            words.literal.extend(left)
            break
        if text in FLAGS:
            words.flags.append(text)
        elif option := _OPTION.fullmatch(text):
            takes_next = option[2] is None and left and left[0] != "--" and not _OPTION.fullmatch(left[0])
            words.options.append(_option(option[1], f"={left.pop(0)}" if takes_next else option[2] or ""))
        elif setting := _SETTING.fullmatch(text):
            words.options.append(_option(setting[1], text[len(setting[1]) :]))
        else:
            words.bare.append(text)
    return words


def _option(key: str, value: str) -> str:
    """``--KEY=VALUE``; other tools write ``--num-images``."""
    return f"--{key.replace('-', '_')}{value}"


def check_bare(words: Sequence[str], known: Sequence[str]) -> None:
    """Refuse words that could be meant as settings: they would be taken for text, and drawn.

    Raises:
        InputError: naming the first.
    """
    keys = "|".join(re.escape(key) for key in known)
    setting = re.compile(rf"[-–—]*({keys})\s*=.*|[-–—]+({keys})\s.*|=.*|[-–—]\S+", re.DOTALL)
    for word, following in zip(words, [*words[1:], None]):
        if setting.fullmatch(word) or (word in known and following is not None):
            raise InputError(f"{word!r} looks like a setting, which is KEY=VALUE or --KEY VALUE; {AS_IT_IS}")


AS_IT_IS = "text that is to be taken as it is follows --"


def one_each(*names: str) -> Callable[[Sequence[str]], list[str]]:
    """A ``place_words`` for as many words as there are names, or fewer."""

    def place(words: Sequence[str]) -> list[str]:
        if len(words) > len(names):
            raise InputError(
                f"{words[len(names)]!r} is one word too many after {' '.join(map(repr, words[: len(names)]))}: "
                "options are KEY=VALUE, and a name with spaces belongs in quotes"
            )
        return [f"--{name}={word}" for name, word in zip(names, words)]

    return place


def quoted_list(texts: Sequence[str]) -> str:
    """A list in YAML that any texts survive in: emoji and control characters, too."""

    def quoted(text: str) -> str:
        plain = (c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
        return f'"{"".join(plain)}"'

    return f"[{', '.join(map(quoted, texts))}]"
