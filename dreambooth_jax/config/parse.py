# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings from files and from KEY=VALUE, and back into a file."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth_jax.config.schema import Config
from dreambooth_jax.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts, lists, numbers and strings: what YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(config))


def keys(config_class: Any = Config) -> Iterator[str]:
    """Every key that can be set: ``run_dir``, ``model.path``, ..."""
    for entry in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(entry.type):
            yield from (f"{entry.name}.{inner}" for inner in keys(entry.type))
        else:
            yield entry.name


def add_settings(parser: "ArgumentParser") -> "ArgumentParser":
    """Give a parser ``--config FILE`` and an option for every key."""
    parser.add_argument("--config", action="config", help="YAML file with settings that differ; may be repeated.")
    parser.add_class_arguments(Config)
    return parser


def new_parser(**options: Any) -> "ArgumentParser":
    """A jsonargparse parser that raises, and shows the strings after dataclass fields as help."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(exit_on_error=False, **options)


def parse(parser: "ArgumentParser", arguments: Sequence[str], *, known: Sequence[str]) -> Any:
    """Parsed and instantiated arguments.

    Args:
        parser: of :func:`new_parser`.
        arguments: as on a command line.
        known: keys to propose for an unknown one.

    Raises:
        InputError: for whatever is wrong with them, on one line; an unknown key comes with the nearest known one.
    """
    import argparse

    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(list(arguments))
        empty = [name for name in dataclasses.asdict(Config()) if name in parsed and parsed[name] is None]
        if empty:
            raise InputError(f"{empty[0]} is empty: give it keys, or leave it out")
        return parser.instantiate(parsed)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise InputError(_one_line(str(error), known)) from error


def _one_line(text: str, known: Sequence[str]) -> str:
    text = " ".join(text.split())
    unknown = re.search(r"[Oo]ption '([\w.]+)'|unrecognized arguments: --([\w.]+)", text)
    if unknown is None:
        return text
    group = re.search(r"Group '([\w.]+)'", text)
    name = unknown[1] or unknown[2]
    full = f"{group[1]}.{name}" if group and not name.startswith(group[1]) else name
    near = difflib.get_close_matches(full, known, n=1, cutoff=0.5)
    # "stepz" alone is nearer to "train.steps" than whole names tell
    near = near or [key for key in known if difflib.get_close_matches(name, [key.split(".")[-1]], cutoff=0.7)]
    return f"unknown key {full}" + (f"; did you mean {near[0]}?" if near else "; see --help for all keys")


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, with overrides such as ``"train.steps=400"``.

    Raises:
        InputError: for a missing file, an unknown key or a value of the wrong type.
    """
    files = [f"--config={path}"] if path is not None else []
    parser = add_settings(new_parser())
    parsed = parse(
        parser, files + [text if text.startswith("--") else f"--{text}" for text in overrides], known=list(keys())
    )
    return Config(**{entry.name: parsed[entry.name] for entry in dataclasses.fields(Config)})


def save_config(path: str | Path, config: Config) -> None:
    """Write the resolved config as YAML that :func:`load_config` reads back."""
    import yaml

    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
