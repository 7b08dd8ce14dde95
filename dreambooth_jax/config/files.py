# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of settings: which one is meant, and YAML without its traps.

Refused are what hides mistakes (a key that stands there twice) and what plain settings do not need (anchors, with which
a few lines become gigabytes, and tags).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.text_files import read_text

LARGEST_FILE = 1_000_000
"""Bytes; the longest file of settings has a few thousand."""
HOMES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
"""Where shipped files lie: in the package, and beside it in a checkout that knows no links."""

SWEEP = "sweep"
"""What a file of settings may have besides them: those that are varied (``members/listed.py``)."""


def shipped() -> dict[str, Path]:
    """Name -> file of the settings that ship with the package."""
    found = {path.stem: path for home in reversed(HOMES) for path in sorted(home.glob("*.yaml"))}
    # those of the embedded model's pretraining belong to a script
    return {name: path for name, path in found.items() if "pretrain" not in name}


def find_settings(name: str | Path) -> Path:
    """A file, or the shipped one of that name.

    Raises:
        InputError: if there is neither.
    """
    path = at_home(name)
    if path.exists() and not path.is_dir():
        return path
    names = shipped()
    if str(name) in names:
        return names[str(name)]
    what = f"{name} is a folder" if str(name) and path.is_dir() else f"{name or 'a settings file'} is not there"
    given = ", ".join(names)
    hint = f"did you mean {path.stem}, which ships with the package?" if path.stem in names else ""
    raise InputError(f"{what}; {hint or f'settings that ship with the package: {given}'}")


def read_settings(name: str | Path) -> dict[Any, Any]:
    """The settings of a file, as nested dicts.

    Raises:
        InputError: if it is missing, no text, no YAML or no settings, on one line.
    """
    path = find_settings(name)
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} has more than {LARGEST_FILE} bytes: it is no file of settings")
    loaded = load_yaml(read_text(path), name=str(path))
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds no settings: write KEY: VALUE, or groups of them")
    return loaded


def load_yaml(text: str, *, name: str) -> Any:
    """YAML of nothing but dicts, lists, texts, numbers, true, false and null.

    Raises:
        InputError: naming ``name`` and the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{name}{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{name}: too many brackets within brackets") from None
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{name}: {str(error).partition(';')[0]}") from None


class _Loader(yaml.SafeLoader):
    """Refuses aliases, tags and keys that stand there twice; 1e-5 is a number, 2026-01-01 a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("& and * (anchors and aliases) are not read: write it out, or quote it", event)
        if getattr(event, "tag", None):
            raise _refusal(f"the tag {event.tag} is not read: write the value alone", event)
        return super().compose_node(parent, index)

    def construct_number(self, node: Any) -> int | float:
        """YAML 1.1 counts 010 by eights and 1:30 by sixties, which YAML 1.2 and people do not."""
        if ":" in node.value or re.match(r"[-+]?0[0-7_]", node.value):
            raise _refusal(f"{node.value} means different numbers to different readers: write it plainly", node)
        number = self.construct_yaml_float if node.tag.endswith(":float") else self.construct_yaml_int
        return number(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal("a key is a word", key_node)
            if key_node.value in found:
                raise _refusal(f"{key_node.value} stands here twice: leave one out", key_node)
            found[key_node.value] = self.construct_object(value_node, deep=deep)
        return found


def _refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)
for kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_number)
_Loader.add_implicit_resolver(  # YAML 1.2: PyYAML takes 1e-5 for a text
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
