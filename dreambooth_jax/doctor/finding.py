# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the doctor says."""

from typing import NamedTuple


class Finding(NamedTuple):
    """Something that is wrong with a run.

    Attributes:
        name: a word for scripts, such as ``too_short``.
        what: in a sentence.
        evidence: what it rests on, with numbers; at least one line.
        change: the one setting, or the one thing, to change first.
    """

    name: str
    what: str
    evidence: tuple[str, ...]
    change: str


class Symptom(NamedTuple):
    """What is wrong with the pictures of a run, whatever the cause.

    Attributes:
        name: a word for scripts, such as ``no_likeness``.
        what: in a sentence.
        evidence: with numbers.
    """

    name: str
    what: str
    evidence: str
