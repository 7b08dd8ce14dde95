# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A page for each verb, from what its help is made of."""

from collections.abc import Iterator

from dreambooth_jax.cli.pages import entries_of, values_of
from dreambooth_jax.cli.verb import Verb
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.config import Config
from generated.repository import fenced
from generated.settings import entry, escaped


def places() -> list[tuple[str, str]]:
    """(verb, place of its page)"""
    return [(name, f"commands/{name}.md") for name in VERBS]


def pages() -> dict[str, str]:
    """The pages, by place."""
    return {place: page(VERBS[name]) for name, place in places()}


def page(verb: Verb) -> str:
    """The page of a verb."""
    parts = [
        f"# dreambooth-jax {verb.name}",
        f"{verb.help[0].upper()}{escaped(verb.help[1:])}.",
        fenced(f"dreambooth-jax {verb.name} {verb.usage}", "text"),
    ]
    if verb.examples:
        lines = (f"# {remark}\ndreambooth-jax {command}" for remark, command in verb.examples)
        parts += ["## Examples", fenced("\n\n".join(lines), "bash")]
    parts += ["## Settings", *_settings(verb)]
    if verb.options:
        options = (
            entry(f"--{name}", option.help, _values(option.kind)) for name, option in sorted(verb.options.items())
        )
        parts += ["## Options", *options]
    return "\n\n".join(parts) + "\n"


def _settings(verb: Verb) -> Iterator[str]:
    """What most people set, or what the verb alone has; the settings of a run have a page of their own."""
    entries = dict(entries_of(verb.settings))
    of_run = verb.settings is Config
    if of_run:
        yield "What most people set; [all settings](../settings.md)."
    for key in (key for keys in verb.common.values() for key in keys) if of_run else entries:
        option, default = entries[key]
        link = f" [↗](../settings.md#{key})" if of_run else ""
        yield entry(key, option.help, _values(option.kind, default), anchor=not of_run) + link


def _values(kind: type, default: object = None) -> str:
    told = values_of(kind, default).strip("[]")
    return told and f"*{escaped(told)}*"
