# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings from files and from KEY=VALUE, and back into a file."""

import dataclasses
import difflib
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from dreambooth_jax.config.lists import Entries
from dreambooth_jax.config.schema import Config
from dreambooth_jax.config.setting import shown
from dreambooth_jax.errors import InputError, nearest
from dreambooth_jax.text_files import write_text

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

LONGEST_MESSAGE = 400
_KIND = r"(<class .\w+.>|typing\.Literal\[.*?\])"
_WRONG_TYPE = re.compile(rf'"([\w.]+)": .*?(?:Expected a |Subtypes: \[){_KIND}.* (?:Got|Given) value: (.*)$')
_KINDS = {
    "<class 'int'>": "a whole number (int)",
    "<class 'float'>": "a finite number",
    "<class 'str'>": "text: put it in quotes",
    "<class 'bool'>": "true or false",
}
"""Types as the parser calls them -> as people do."""
_MEANT = {
    ("adapter.kind", "dora"): ": it is adapter.kind=lora adapter.dora=output, or input for A1111 and ComfyUI",
    ("adapter.kind", "locon"): ": it is adapter.kind=lora adapter.targets=attn-mlp-conv",
    ("adapter.kind", "rslora"): ": it is adapter.kind=lora adapter.rank_stabilized=true",
    ("optimizer.kind", "adam"): ": it is optimizer.kind=adamw optimizer.weight_decay=0",
}
"""(key, name that others use) -> how to say it here."""


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts, lists, numbers and strings: what YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def keys(settings: Any = Config) -> Iterator[str]:
    """Every key that can be set: ``run_dir``, ``model.path``, ..."""
    yield from key_types(settings)


def key_types(settings: Any, prefix: str = "") -> dict[str, Any]:
    """The type of every key."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(field.type):
            found |= key_types(field.type, f"{prefix}{field.name}.")
        else:
            found[f"{prefix}{field.name}"] = field.type
    return found


def add_settings(parser: "ArgumentParser") -> "ArgumentParser":
    """Give a parser an option for every key."""
    parser.add_class_arguments(Config)
    return parser


def new_parser(**options: Any) -> "ArgumentParser":
    """A jsonargparse parser that raises, and shows the strings after dataclass fields as help."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, **options)


def parse(arguments: Sequence[str], *, known: Sequence[str], settings: Any = Config, parser: Any = None) -> Any:
    """Parsed and instantiated arguments. Those of files are overridden by the others, later ones by earlier ones.

    Args:
        arguments: as on a command line, ``--KEY=VALUE`` each; ``--config=FILE`` may be among them.
        known: all keys.
        settings: the class that most of the keys are of.
        parser: of :func:`new_parser`, for all keys; without it what comes back has those alone that are given.

    Raises:
        InputError: for whatever is wrong with them, on one line; an unknown key comes with the nearest known one.
    """
    import argparse

    from jsonargparse import ArgumentError

    kinds = key_types(settings)
    words = [text.removeprefix("--").partition("=") for text in arguments]
    files = [value for key, _, value in words if key == "config" and settings is Config]
    content, options, entries = _from_files(files, kinds), [], Entries(kinds)
    entries.take_file(content)
    for (key, equals, value), text in zip(words, arguments):
        if (key == "config" and settings is Config) or (equals and entries.take_option(key, value)):
            continue
        check_known(key, [*known])
        options.append(f"--{key}={_value_of(key, value, kinds[key])}" if equals and key in kinds else text)
    for group, lists in entries.parsed(_parsed_entry).items():
        content.setdefault(group, {}).update(lists)
    if parser is None:
        parser = _parser_of([*(key for key, _ in _flat(content, kinds)), *_keys_of(options)], kinds)
    try:
        of_files = parser.parse_object(content) if content else None
        return parser.instantiate(parser.parse_args(options, namespace=of_files))
    except (ArgumentError, argparse.ArgumentError) as error:
        raise InputError(_one_line(str(error))) from error
    except OverflowError as error:
        raise InputError(f"a number is too large: {error}") from error


def _parsed_entry(kind: type, options: list[str]) -> Any:
    """An entry of a list of groups of settings, from ``--NAME=VALUE``."""
    return _built(kind, parse(options, known=list(keys(kind)), settings=kind))


def _keys_of(options: Sequence[str]) -> Iterator[str]:
    for option in options:
        yield option.removeprefix("--").partition("=")[0]


def _parser_of(given: Sequence[str], kinds: dict[str, Any]) -> "ArgumentParser":
    """A parser of the keys that are given: one of all keys goes through all of them for each, which takes 0.3 s."""
    parser = new_parser()
    for key in dict.fromkeys(given):
        if key in kinds:
            parser.add_argument(f"--{key}", type=kinds[key])
    return parser


def _built(kind: type, values: Any) -> Any:
    """An instance with what is given and defaults."""
    given = {
        field.name: _built(field.type, values[field.name])  # type: ignore[arg-type]
        if dataclasses.is_dataclass(field.type)
        else values[field.name]
        for field in dataclasses.fields(kind)
        if field.name in values
    }
    return kind(**given)


MAIN = ("train", "optimizer", "data", "model")
"""Groups that a name without one is most likely of, where several have it."""


def check_known(key: str, known: list[str]) -> None:
    """Raise InputError, with the nearest of the known keys, for another one."""
    if key in known:
        return
    if key.endswith("+") and key[:-1] in known:
        raise InputError(f"{key}= does not add: write {key[:-1]}= and all of it, a list as one; another")
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise InputError(f"{key} is a group of settings: set one of them, such as {inside[0]}=VALUE")
    near = [one for one in known if one in {f"{group}.{key}" for group in MAIN}]
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    # "stepz" alone is nearer to "train.steps" than whole names tell
    last = key.split(".")[-1]
    near = near or [one for one in known if difflib.get_close_matches(last, [one.split(".")[-1]], cutoff=0.7)]
    hint = f"; did you mean {near[0]}?" if near else "; see --help for all keys"
    name = shown(key).strip("'")
    raise InputError(f"unknown key {name if key.strip() else repr(key)}{hint}")


def _value_of(key: str, text: str, kind: Any) -> str:
    """The value of an option, as the parser reads it."""
    from dreambooth_jax.config.files import load_yaml

    if _is_text(kind):
        return text
    if not text.strip():
        raise InputError(f"{key} is empty: give it a value, or leave it out")
    if get_origin(kind) is tuple:
        listed = load_yaml(text, name=key) if text.lstrip().startswith("[") else split_list(text)
        for one in listed:
            if not isinstance(one, str):
                raise InputError(f"{key} has {shown(one)}, which YAML takes for no text: quote it, or use one; another")
        return _quoted(listed)
    if text.lstrip()[0] in "[{&*!|>" or len(text) > 1000:
        raise InputError(f"{key} is {shown(text)}, but must be a single value")
    load_yaml(text, name=key)  # refuses what means different numbers to different readers
    return text


def _is_text(kind: Any) -> bool:
    return kind is str or (isinstance(kind, types.UnionType) and str in get_args(kind))


def split_list(text: str) -> list[str]:
    """``one; another`` -> [one, another]."""
    return [part.strip() for part in text.split(";") if part.strip()]


def _quoted(values: Any) -> str:
    """A list on one line that YAML reads back as it is: texts quoted, emoji and control characters, too."""
    import yaml

    return yaml.safe_dump(values, default_style='"', default_flow_style=True, width=2**30).strip()


def _from_files(names: Sequence[str], kinds: dict[str, Any]) -> dict[str, Any]:
    """The settings of files, as nested dicts; later files win."""
    from dreambooth_jax.config.files import read_settings

    found: dict[str, Any] = {}
    for name in names:
        seen: set[str] = set()
        for key, value in _flat(read_settings(name), kinds):
            if key in seen:  # as train.steps and as steps within train
                raise InputError(f"{name}: {key} stands here twice: leave one out")
            seen.add(key)
            place = found
            *groups, last = key.split(".")
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
    return found


def _flat(values: dict[Any, Any], kinds: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of what a file holds, checked as far as the parser does not."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_group = any(one.startswith(f"{key}.") for one in kinds)
        if value is None and (is_group or (key in kinds and type(None) not in get_args(kinds[key]))):
            raise InputError(f"{key} is empty: give it {'keys' if is_group else 'a value'}, or leave it out")
        if is_group and isinstance(value, dict):
            yield from _flat(value, kinds, f"{key}.")
            continue
        check_known(key, list(kinds))
        yield key, split_list(value) if get_origin(kinds[key]) is tuple and isinstance(value, str) else value


def _one_line(text: str) -> str:
    text = " ".join(text.split()).replace("Parser key ", "")
    if wrong := _WRONG_TYPE.search(text):
        key, kind, value = wrong.groups()
        names = kind.partition("[")[2].rstrip("]")
        listed = re.findall(r"'([^']*)'", names)  # of a few, such as dtypes, the nearest may be far
        way_out = _MEANT.get((key, value)) or (nearest(value, listed) if len(listed) > 3 else "")
        text = f"{key} must be {_KINDS.get(kind) or f'one of {names}'}, not {value}{way_out}"
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, or of one that ships with the package, with overrides such as ``"train.steps=400"``.

    Raises:
        InputError: for a missing file, an unknown key or a value of the wrong type.
    """
    files = [f"--config={path}"] if path is not None else []
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise InputError(f"overrides={overrides!r}: give a list of texts, such as ['train.steps=400']")
    words = files + [f"--{text.removeprefix('--')}" for text in overrides]
    return _built(Config, parse(words, known=list(keys())))


def save_config(path: str | Path, config: Config) -> None:
    """Write the resolved config as YAML that :func:`load_config` reads back."""
    import yaml

    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_text(path, text)
