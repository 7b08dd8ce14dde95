# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All settings of a run, from the classes that hold them: what each is for, its default, its bounds."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from dreambooth_jax.cli.pages import entries_of, values_of
from dreambooth_jax.config import Config
from dreambooth_jax.config.setting import entry_kind, resumable_keys, rules_of

INTRODUCTION = """# All settings

Of `train`, `prior`, `plan` and `sweep`: `KEY=VALUE` on the command line, in YAML `data: {resolution: 768}`. This page
is made of what `dreambooth-jax train --help-all` shows. Those with a ⟳ may change when a run goes on from a checkpoint;
another value of the others makes another run.
"""


def page() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for prefix, group in groups(Config):
        parts += [f"## {prefix.rstrip('.') or 'run'}", _told(group), *_entries(group, prefix)]
    return "\n\n".join(parts) + "\n"


def groups(settings: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Classes of settings with what stands before their keys; entries of lists, too, whose number is N."""
    yield prefix, settings
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(field.type):
            yield from groups(field.type, f"{prefix}{field.name}.".removeprefix("."))
        elif entry := entry_kind(field.type):
            yield f"{prefix}{field.name}.N.", entry


def entry(key: str, help: str, values: str, *, anchor: bool = True) -> str:
    """One setting, as an entry of a definition list; ``values`` are what may be given and what is taken otherwise."""
    name = f"`{key}`{{ #{key} }}" if anchor else f"`{key}`"
    return f"{name}{values and ' '}{values}\n:   {escaped(help)}"


def escaped(text: str) -> str:
    """Help as Markdown: signs that mean something there are themselves."""
    return "".join(f"\\{sign}" if sign in "\\*_`[]<|#" else sign for sign in text)


def _told(group: type) -> str:
    return escaped((group.__doc__ or "").split("\n\n")[0])


def _entries(group: type, prefix: str) -> Iterator[str]:
    resumable, own = set(resumable_keys(Config)), {field.name: field for field in dataclasses.fields(group)}
    for key, (option, default) in entries_of(group):
        if key in own:
            free = (prefix + key).replace(".N.", ".") in resumable
            yield entry(prefix + key, option.help, _values(own[key], option.kind, default) + " ⟳" * free)


def _values(field: dataclasses.Field, kind: Any, default: Any) -> str:
    bounds = "" if rules_of(field).size else rules_of(field).said("").partition(";")[0]
    parts = [part for part in (values_of(kind, default).strip("[]"), bounds) if part]
    return " ".join(f"*{escaped(part)}*" for part in parts)
