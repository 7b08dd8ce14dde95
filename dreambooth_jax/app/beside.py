# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""An error stands beside the field that caused it.

Requests say what is wrong on one line, as the command line does, which begins with what is wrong: a setting, or the
words by which the page calls a field. By these it is known where the line belongs.
"""

from collections.abc import Mapping, Sequence

ELSEWHERE = ""
"""Place of a message that is of no field."""


def place_of(message: str, fields: Mapping[str, Sequence[str]]) -> str:
    """The field that a message is of; ``ELSEWHERE`` if none.

    Args:
        message: of an ``InputError``.
        fields: name of a field -> beginnings of messages that are of it; the longest that fits counts.
    """
    text = message.lstrip("'\"").lower()
    fitting = [(len(start), name) for name, starts in fields.items() for start in starts if text.startswith(start)]
    return max(fitting, default=(0, ELSEWHERE))[1]


def spread(message: str, fields: Mapping[str, Sequence[str]]) -> list[str]:
    """A message where it belongs and nothing elsewhere: of each field in turn, and at last of none."""
    place = place_of(message, fields)
    return [message if name == place else "" for name in (*fields, ELSEWHERE)]
