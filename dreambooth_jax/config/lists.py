# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Lists of groups of settings, such as ``data.concepts``: given whole, or an entry's settings one by one.

data.concepts='[{identifier: sks, class_noun: dog}, {identifier: zwx, class_noun: cat}]'    the whole list
data.concepts.1.weight=0.5                                                                  of the second entry
"""

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from dreambooth_jax.config.files import load_yaml
from dreambooth_jax.config.setting import entry_kind, shown
from dreambooth_jax.errors import InputError

MOST = 100
"""Entries of a list."""
_PLACE = re.compile(r"(.+)\.(\d{1,9})\.(\w+)")


class Entries:
    """Lists as they are collected from files and options, later ones over earlier ones.

    Args:
        kinds: the type of every key.
    """

    def __init__(self, kinds: Mapping[str, Any]):
        self._kinds = {key: found for key, kind in kinds.items() if (found := entry_kind(kind))}
        self._found: dict[str, list[dict[str, Any]]] = {}

    def take_file(self, content: dict[str, Any]) -> None:
        """Take the lists out of the settings of files, nested dicts."""
        for key in self._kinds:
            *groups, last = key.split(".")
            place: Any = content
            for group in groups:
                place = place.get(group, {})
            if last in place:
                self._found[key] = self._listed(key, place.pop(last))

    def take_option(self, key: str, value: str) -> bool:
        """Take an option; whether it is one of a list.

        Raises:
            InputError: for an entry that there is not.
        """
        if key in self._kinds:
            self._found[key] = self._listed(key, load_yaml(value, name=key))
            return True
        place = _PLACE.fullmatch(key)
        if not place or place[1] not in self._kinds:
            return False
        entries, number = self._found.setdefault(place[1], []), int(place[2])
        if number > len(entries) or number >= MOST:
            raise InputError(f"{key}: there are {len(entries)} entries, numbered from 0, so the next is {len(entries)}")
        entries += [{}] * (number == len(entries))
        entries[number] = entries[number] | {place[3]: value}
        return True

    def _listed(self, key: str, value: Any) -> list[dict[str, Any]]:
        fine = isinstance(value, (list, tuple)) and all(isinstance(one, dict) for one in value)
        if not fine or len(value) > MOST:
            fields = dataclasses.fields(self._kinds[key])[:2]
            example = ", ".join(f"{field.name}: ..." for field in fields)
            raise InputError(f"{key} is {shown(value)}, but must be a list of at most {MOST}: [{{{example}}}, ...]")
        return copy.deepcopy(list(value))

    def parsed(self, parse_entry: Callable[[type, list[str]], Any]) -> dict[str, Any]:
        """The lists as nested dicts, each entry checked.

        Args:
            parse_entry: makes an entry of a class from ``--NAME=VALUE``.

        Raises:
            InputError: naming the list, the number of the entry and what is wrong with it.
        """
        result: dict[str, Any] = {}
        for key, entries in self._found.items():
            place = result
            *groups, last = key.split(".")
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = [self._entry(key, number, one, parse_entry) for number, one in enumerate(entries)]
        return result

    def _entry(self, key: str, number: int, entry: dict[str, Any], parse_entry: Callable[..., Any]) -> dict[str, Any]:
        given = {name: value for name, value in entry.items() if value is not None}
        try:
            made = parse_entry(self._kinds[key], [f"--{name}={_written(value)}" for name, value in given.items()])
        except InputError as error:
            raise InputError(f"{key}.{number}: {error}") from error
        return dataclasses.asdict(made)


def _written(value: Any) -> str:
    """A value of YAML as an option has it."""
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else f"{value}"
