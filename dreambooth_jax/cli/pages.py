# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Help pages, made from the fields of dataclasses and the strings after them. No parser is needed, and no jax.

The documentation's pages are made of the same entries (``docs/site``)."""

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin

from dreambooth_jax.cli.verb import Option, Verb

DESCRIPTION = "DreamBooth for Stable Diffusion in JAX: a few photos of one subject in, a personalised model out."
HOW_TO_SET = 'Settings are KEY=VALUE or --KEY VALUE, and win over those of files. Lists: KEY="one; another".'
MOST_COLUMNS = 110


def overview(verbs: Iterable[Verb]) -> str:
    """The page of ``dreambooth-jax --help``."""
    lines = ["dreambooth-jax VERB ...", "", *_wrapped(DESCRIPTION), ""]
    lines += [f"  {verb.name:<10}{verb.help}" for verb in verbs]
    return "\n".join([*lines, "", "dreambooth-jax VERB --help tells more, dreambooth-jax --version which one this is."])


def page(verb: Verb, *, every_key: bool) -> str:
    """The page of a verb.

    Args:
        verb: the verb.
        every_key: all that can be set, also where the verb names what most people set.
    """
    short = bool(verb.common) and not every_key
    entries = dict(entries_of(verb.settings))
    lines = [f"dreambooth-jax {verb.name} {verb.usage}", "", f"{verb.help[0].upper()}{verb.help[1:]}."]
    for remark, command in verb.examples:
        lines += ["", f"  # {remark}", f"  dreambooth-jax {command}"]
    sections = verb.common if short else _sections(entries)
    for heading, keys in sections.items():
        lines += ["", heading, *_table({key: entries[key] for key in keys})]
    if verb.options:
        lines += ["", "options", *_table({f"--{name}": (option, None) for name, option in verb.options.items()})]
    lines += ["", *_wrapped(HOW_TO_SET)]
    if short:
        lines += [f"dreambooth-jax {verb.name} --help-all shows all {len(entries)} settings."]
    return "\n".join(lines)


def entries_of(settings: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Option, Any]]]:
    """Every key with its type, help and default; MISSING where it must be given."""
    texts = _strings_after_fields(settings)
    for entry in dataclasses.fields(settings):
        if dataclasses.is_dataclass(entry.type):
            yield from entries_of(entry.type, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, (Option(cast(type, entry.type), texts.get(entry.name, "")), entry.default)


@cache
def _strings_after_fields(settings: type) -> Mapping[str, str]:
    found = {}
    for cls in reversed(settings.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        for before, after in zip(definition.body, definition.body[1:]):
            match before, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _sections(entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Keys by what stands before their last dot."""
    sections: dict[str, list[str]] = {}
    for key in entries:
        sections.setdefault(key.rpartition(".")[0] or "what can be set", []).append(key)
    return sections


def _table(entries: Mapping[str, tuple[Option, Any]]) -> Iterator[str]:
    """Keys on the left, help on the right."""
    left = max(len(key) for key in entries) + 4
    for key, (option, default) in entries.items():
        first, *others = _wrapped(" ".join(filter(None, (option.help, values_of(option.kind, default)))), left)
        yield f"  {key}".ljust(left) + first.strip()
        yield from others


def values_of(kind: Any, default: Any) -> str:
    """What may be given and what is taken otherwise, in brackets."""
    kinds = [one for one in (kind, *get_args(kind)) if get_origin(one) is Literal]
    is_switch = kind is bool or bool in get_args(kind)
    parts = [" | ".join(map(str, get_args(kinds[0])))] if kinds else ["true | false"] if is_switch else []
    if isinstance(default, bool):
        parts.append(f"default {str(default).lower()}")
    elif default not in (None, "", (), dataclasses.MISSING):
        value = " ; ".join(map(str, default)) if isinstance(default, tuple) else default
        parts.append(f"default {value}")
    return f"[{'; '.join(parts)}]" if parts else ""


def _wrapped(text: str, indent: int = 0) -> list[str]:
    columns = min(shutil.get_terminal_size((MOST_COLUMNS, 0)).columns, MOST_COLUMNS)
    width = max(columns, indent + 40)
    return textwrap.wrap(
        text, width, break_on_hyphens=False, initial_indent=" " * indent, subsequent_indent=" " * indent
    ) or [""]
