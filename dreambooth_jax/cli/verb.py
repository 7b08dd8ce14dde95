# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a verb of the command line is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option that is no setting of the run.

    Attributes:
        kind: type of the value.
        help: a line for the help page.
    """

    kind: type
    help: str


class Call(NamedTuple):
    """What a command line asks of a verb.

    Attributes:
        settings: an instance of the verb's dataclass.
        options: the value of each of the verb's options, None where it is not given.
        told: keys that the command line gave; all others have their defaults, or what a file says.
        words: ``--KEY=VALUE`` of the settings, files included, for who makes others like them.
        taken: what the verb's ``take`` has taken out of the words.
    """

    settings: Any
    options: Mapping[str, Any]
    told: frozenset[str]
    words: Sequence[str] = ()
    taken: Any = None


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A verb, as the command line and its help pages need to know it.

    Attributes:
        name: the word.
        usage: what may follow it.
        help: what it does, in one line.
        settings: dataclass whose fields can be set, as ``KEY=VALUE`` and as ``--KEY VALUE``.
        options: what can be set besides, in the same ways.
        place_words: turns words that are neither into options; raises InputError for those that have no place.
        take: takes what is no setting by itself out of the options: (those that are left, what was taken).
        run: does it. It imports what takes long itself, so that help does not wait for it.
        repeatable: lists among ``settings`` that grow by each option that names them.
        common: keys of ``settings`` that ``--help`` shows, by heading; where there are none, it shows all.
        examples: whole command lines, each with a comment.
    """

    name: str
    usage: str
    help: str
    settings: type
    options: Mapping[str, Option] = field(default_factory=dict)
    place_words: Callable[[Sequence[str]], list[str]]
    take: Callable[[list[str]], tuple[list[str], Any]] = lambda options: (options, None)
    run: Callable[[Call], None]
    repeatable: Sequence[str] = ()
    common: Mapping[str, Sequence[str]] = field(default_factory=dict)
    examples: Sequence[tuple[str, str]] = ()
