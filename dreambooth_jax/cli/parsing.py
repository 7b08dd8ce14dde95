# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A command line -> its verb, settings and options."""

import dataclasses
import difflib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from dreambooth_jax.cli.verb import Call, Option, Verb
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.cli.words import check_bare, split
from dreambooth_jax.config import Config, add_settings, keys, new_parser, parse
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def find_verb(arguments: Sequence[str]) -> Verb:
    """The verb that a command line begins with.

    Raises:
        InputError: naming those that there are.
    """
    verbs = ", ".join(VERBS)
    if not arguments:
        raise InputError(f"say what to do: {verbs}; dreambooth-jax --help tells more")
    if arguments[0] not in VERBS:
        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{arguments[0]!r} is no verb, of which there are {verbs}{guess}")
    return VERBS[arguments[0]]


def normalise(verb: Verb, arguments: Sequence[str]) -> list[str]:
    """The words after a verb as options, those that have no key first.

    Raises:
        InputError: for a word that has no place, could be meant as a setting, or is given a second time as an option.
    """
    words = split(arguments)
    check_bare(words.bare, known_keys(verb))
    placed = verb.place_words(words.bare + words.literal)
    named = {option.partition("=")[0] for option in words.options}
    for option in placed:
        name, _, value = option.partition("=")
        if name in named and name != "--config":
            raise InputError(f"{value} and {name} are both given: leave one out")
    switches = {f"--{entry.name}" for entry in dataclasses.fields(verb.settings) if entry.type is bool}
    switches |= {f"--{name}" for name, option in verb.options.items() if option.kind is bool}
    options = [f"{option}=true" if option in switches else option for option in words.options]
    return [*placed, *_joined(options, verb.repeatable)]


def _joined(options: Sequence[str], repeatable: Sequence[str]) -> list[str]:
    """A list that is given several times is one list."""
    values: dict[str, list[str]] = {}
    rest = []
    for option in options:
        name, _, value = option.partition("=")
        if name.removeprefix("--") in repeatable:
            values.setdefault(name, []).append(value)
        else:
            rest.append(option)
    return [*rest, *(f"{name}={'; '.join(several)}" for name, several in values.items())]


def known_keys(verb: Verb) -> list[str]:
    """All that can be set."""
    return [*keys(verb.settings), *verb.options]


@cache
def _parser(verb: str, usage: str, settings: type, options: Sequence[tuple[str, Option]]) -> "ArgumentParser":
    """The parser of a verb; it keeps nothing of what it parses, and to make it takes most of the time of a call."""
    parser = new_parser(prog=f"dreambooth-jax {verb}", usage=f"dreambooth-jax {verb} {usage}")
    if settings is Config:
        add_settings(parser)
    else:
        parser.add_class_arguments(settings)
    for name, (kind, text) in options:
        parser.add_argument(f"--{name}", type=kind | None, default=None, help=text)
    return parser


def read_call(verb: Verb, arguments: Sequence[str]) -> Call:
    """Parse the words after a verb.

    Raises:
        InputError: for whatever is wrong with it, on one line.
    """
    parser = _parser(verb.name, verb.usage, verb.settings, tuple(verb.options.items()))
    words, taken = verb.take(normalise(verb, arguments))
    parsed = parse(words, known=known_keys(verb), settings=verb.settings, parser=parser)
    names = [entry.name for entry in dataclasses.fields(verb.settings)]
    settings = verb.settings(**{name: parsed[name] for name in names})
    if verb.settings is not Config:  # a run checks its own, which need not come from a command line
        check_arguments(settings)
    return Call(
        settings=settings,
        options={name: parsed[name] for name in verb.options},
        told=frozenset(map(_key, words)),
        words=[word for word in words if _key(word) not in verb.options],
        taken=taken,
    )


def _key(word: str) -> str:
    return word.removeprefix("--").partition("=")[0]
