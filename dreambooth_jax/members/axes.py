# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings with several values each, of which all combinations are trained.

optimizer.learning_rate=1e-6,3e-6                   two values
prior.class_prompt="a cat, sitting; a cat"          values with commas stand between semicolons
adapter.targets=[attn-only],[attn-mlp, conv_in]     each value is a list, in brackets
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_origin

from dreambooth_jax.config import Config
from dreambooth_jax.config.files import load_yaml
from dreambooth_jax.config.parse import key_types
from dreambooth_jax.config.setting import entry_kind, shown
from dreambooth_jax.errors import InputError

ONE = {
    "run_dir": "all members of a set are in one folder",
    "data.subjects": "put all subjects into one folder, or one list",
}
"""Settings of a set as a whole, and why they have one value."""
_PLACE = re.compile(r"(.+)\.\d+\.(\w+)")
_OPEN, _CLOSE = "[{(", "]})"


class Choice(NamedTuple):
    """One of the values of an axis.

    Attributes:
        text: how it is called.
        told: settings that it stands for, ``KEY=VALUE`` each.
    """

    text: str
    told: tuple[str, ...]


class Axis(NamedTuple):
    """A setting and its values, or a word for groups of settings and these.

    Attributes:
        key: the setting, or the word.
        choices: at least one.
    """

    key: str
    choices: tuple[Choice, ...]

    @property
    def is_setting(self) -> bool:
        """Is it a key? Otherwise its choices are named by themselves."""
        return any(key_of(option) == self.key for option in self.choices[0].told)


def key_of(option: str) -> str:
    """``--KEY=VALUE`` or ``KEY=VALUE`` -> KEY."""
    return option.removeprefix("--").partition("=")[0]


def take_axes(options: Sequence[str], *, texts: bool = True) -> tuple[list[str], list[Axis]]:
    """Settings with several values, out of the options of a command line: (the others, the axes).

    Args:
        options: ``--KEY=VALUE`` each.
        texts: are commas in settings that are texts between values, too?

    Raises:
        InputError: for a value that is empty or stands there twice, and for a setting that can have one only.
    """
    kinds, others, axes = key_types(Config), [], []
    for option in options:
        key, _, text = option.removeprefix("--").partition("=")
        kind = _kind(key, kinds)
        is_one = not kind or (not texts and kind in (str, str | None))
        values = [text] if is_one else split_values(text, is_list=get_origin(kind) is tuple)
        if len(values) == 1:
            others.append(option)
        else:
            axes.append(axis_of(key, values))
    check_axes(axes)
    return others, axes


def axis_of(key: str, values: Sequence[str]) -> Axis:
    """The axis of a setting, its values as they were written.

    Raises:
        InputError: for a value that is empty or stands there twice, and for a setting that can have one only.
    """
    if key in ONE:
        raise InputError(f"{key} has {len(values)} values, but {ONE[key]}: give one")
    kind = _kind(key, key_types(Config))
    texts = [value if kind is str else _canonical(key, value) for value in values]
    for text in texts:
        if not text.strip():
            raise InputError(f"{key} has an empty value among {shown(', '.join(texts))}: write {key}=VALUE,VALUE")
        if texts.count(text) > 1:
            raise InputError(f"{key} has {text[:80]} twice: leave one out")
    return Axis(key, tuple(Choice(text, (f"{key}={value}",)) for text, value in zip(texts, values)))


def check_axes(axes: Sequence[Axis]) -> None:
    """Raise InputError if a setting is varied twice."""
    seen: dict[str, str] = {}
    for axis in axes:
        for key in sorted({key_of(option) for choice in axis.choices for option in choice.told}):
            if seen.setdefault(key, axis.key) != axis.key or [one.key for one in axes].count(axis.key) > 1:
                where = f", by {seen[key]} and by {axis.key}" if seen[key] != axis.key else ""
                raise InputError(f"{key} is varied twice{where}: leave one out")


def split_values(text: str, *, is_list: bool = False) -> list[str]:
    """The values of a text: at commas, or where it is no list and has a semicolon at these; neither within brackets nor
    within double quotes, which are taken off."""
    marks = dict(_outside(text))
    sign = ";" if ";" in marks.values() and not is_list else ","
    if ";" in marks.values() and is_list:
        return [text]
    places = [place for place, found in marks.items() if found == sign]
    parts = [text[start:end] for start, end in zip([0, *(place + 1 for place in places)], [*places, len(text)])]
    return [_unquoted(part.strip()) for part in parts] if len(parts) > 1 else [text]


def _outside(text: str) -> Iterator[tuple[int, str]]:
    """(place, sign) of commas and semicolons outside of brackets and double quotes."""
    depth, quoted = 0, False
    for place, sign in enumerate(text):
        if sign == '"':
            quoted = not quoted
        elif not quoted:
            depth += (sign in _OPEN) - (sign in _CLOSE)
            if sign in ",;" and depth == 0:
                yield place, sign


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _kind(key: str, kinds: Mapping[str, Any]) -> Any:
    """The type of a key, also of one of an entry of a list; None for none."""
    place = _PLACE.fullmatch(key)
    if place and (entry := entry_kind(kinds.get(place[1]))):
        return key_types(entry).get(place[2])
    return kinds.get(key)


def _canonical(key: str, text: str) -> str:
    """A value as it is called: the same number is called the same, however it was written."""
    return written(load_yaml(text, name=key)) if text.strip() and text.strip()[0] not in "[{" else text


def text_of(key: str, value: Any) -> str:
    """A value of YAML as a command line has it of a setting, or of a name.

    Raises:
        InputError: for no, on or 1e-3 where a text stands, which a person may well have meant.
    """
    kind = _kind(key, key_types(Config) | {"name": str})
    no_text = (bool, float, type(None)) if kind is str else (bool, float) if kind == str | None else ()
    if isinstance(value, no_text):
        raise InputError(f"{key} is {written(value)}, which YAML takes for no text: put it in quotes, or leave it out")
    return written(value)


def written(value: Any) -> str:
    """A value of YAML as a command line has it: 1e-6, true, null."""
    if isinstance(value, float):
        return re.sub(r"e([-+])0+", r"e\1", repr(value)).replace("e+", "e")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_in_list(one) for one in value)}]"
    return str(value)


def _in_list(value: Any) -> str:
    """A value within brackets; texts are quoted as YAML has them."""
    return json.dumps(value, ensure_ascii=True) if isinstance(value, str) else written(value)


def flat_settings(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{train: {steps: 6}}`` and ``{train.steps: 6}`` of a YAML file -> ``train.steps``, 6."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{key}.")
        else:
            yield key, value
