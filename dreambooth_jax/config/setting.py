# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is known of one setting: default, bounds, and whether a resumed run may change it. Help is the string below it.

steps: int = setting(800, at_least=1, at_most=10_000_000)
\"\"\"Optimizer steps.\"\"\"
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Any, TypeAlias, get_args, get_origin

from dreambooth_jax.errors import InputError, nearest
from dreambooth_jax.paths import at_home
from dreambooth_jax.size import Size

Number: TypeAlias = float | int
LARGEST = {"int": 2**31 - 1, "float": 3.4028235e38}
"""Largest magnitudes that arrays of the devices hold: int32 and float32. Fields may allow less, or integers more."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a value must be. Of a list, every entry; None, where a field has it, is always allowed."""

    at_least: Number | None = None
    above: Number | None = None
    at_most: Number | None = None
    below: Number | None = None
    multiple_of: int | None = None
    nonempty: bool = False
    """A text of more than blanks, or a list of at least one."""
    one_of: tuple[str, ...] = ()
    """All texts that there are to choose from."""
    pattern: bool = False
    """A regular expression."""
    size: bool = False
    """The size of a picture, as :meth:`Size.parse` reads it; the bounds are those of a side."""
    path: bool = False
    """A place in the file system: ``~`` is the user's home."""
    hint: str = ""
    """The way out, after the rule."""
    resumable: bool = False
    """A run that goes on from a checkpoint may have another value: it changes no result."""
    of_sampler: bool = False
    """An option that only some samplers have."""

    def broken_by(self, value: Any) -> str | None:
        """The rule that a value breaks, as the end of a sentence that begins with "must be"; None if it is fine."""
        if isinstance(value, (tuple, list)):
            if self.nonempty and not value:
                return "a list of at least one"
            return next((rule for one in value if (rule := self.broken_by(one))), None)
        if self.size:
            return self._broken_by_size(value)
        if isinstance(value, str):
            return self._broken_by_text(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._broken_by_number(value)
        return None

    def _broken_by_text(self, text: str) -> str | None:
        if self.nonempty and not text.strip():
            return "given" + (f"; {self.hint}" if self.hint else "")
        if self.one_of and text not in self.one_of:
            return f"one of {', '.join(self.one_of)}{nearest(text, self.one_of)}"
        if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
            return "text (UTF-8, and no zero bytes)"
        if self.pattern:
            try:
                re.compile(text)
            except (re.error, OverflowError, RecursionError) as error:
                return f"a regular expression ({error})"
        return None

    def _broken_by_size(self, value: int | str) -> str | None:
        try:
            sides = Size.parse(value)
        except InputError:
            return f"a number for a square, or width x height{f'; {self.hint}' if self.hint else ''}"
        return next((rule for side in sides if (rule := self._broken_by_number(side))), None)

    def _broken_by_number(self, value: Number) -> str | None:
        if isinstance(value, float) and not math.isfinite(value):
            return self.said("a finite number")
        largest = LARGEST["int" if isinstance(value, int) else "float"]
        most = math.inf if self.at_most is not None or self.below is not None else largest
        fine = (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
            and -largest <= value <= most
        )
        return None if fine else self.said(f"from {-largest:g} to {largest:g}")

    def said(self, otherwise: str) -> str:
        """All bounds of a number in words, or what is said where there are none."""
        parts = [f"a multiple of {self.multiple_of}"] if self.multiple_of else []
        bounds = (
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        )
        parts += [f"{word} {bound:.12g}" for word, bound in bounds if bound is not None]
        return (" and ".join(parts) or otherwise) + (f"; {self.hint}" if self.hint else "")


def setting(default: Any = MISSING, **rules: Any) -> Any:
    """A field of a class of settings; ``rules`` are those of :class:`Rules`."""
    return dataclasses.field(default=default, metadata={"rules": Rules(**rules)})


RESUMABLE = {"rules": Rules(resumable=True)}
"""Metadata of a field that holds a group of settings: a resumed run may change all of them."""


def redefault(settings: type, name: str, default: Any) -> Any:
    """A field of a class above with another default and the same rules."""
    (field,) = (field for field in dataclasses.fields(settings) if field.name == name)
    return dataclasses.field(default=default, metadata=field.metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all classes of settings: a leading ``~`` of a path becomes the user's home."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if rules_of(field).path and isinstance(value, str) and value.startswith("~"):
                object.__setattr__(self, field.name, str(at_home(value)))


def rules_of(field: dataclasses.Field) -> Rules:
    """The rules of a field; where it states none, only what holds of every value."""
    return field.metadata.get("rules", Rules())


def broken(settings: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, its value as it stands in a message, what it must be) of each single value that is wrong."""
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from broken(value, f"{key}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for number, one in enumerate(value):
                yield from broken(one, f"{key}.{number}.")
        elif rule := rules_of(field).broken_by(value):
            yield key, shown(value), rule


def check_arguments(settings: Any) -> None:
    """Raise InputError for the first value that is out of bounds."""
    for key, value, rule in broken(settings):
        raise InputError(f"{key} = {value}: must be {rule}")


def shown(value: Any) -> str:
    """A value as it stands in a message: short, on one line."""
    if isinstance(value, str) and not value.strip():
        return "empty"
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"a number of {int(math.log10(abs(value))) + 1} digits"
    text = str(value) if isinstance(value, (int, float)) else ascii(value) if _odd(value) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _odd(value: Any) -> bool:
    return isinstance(value, str) and not value.isprintable()


def entry_kind(kind: Any) -> type | None:
    """The class of settings that a list is of; None for what is no such list."""
    first = get_args(kind)[0] if get_origin(kind) is tuple and get_args(kind) else None
    return first if dataclasses.is_dataclass(first) and isinstance(first, type) else None


def resumable_keys(settings: type, prefix: str = "", all_of_them: bool = False) -> Iterator[str]:
    """Keys that a resumed run may change, such as ``train.log_every``. Those of the entries of a list have no number:
    ``data.concepts.instance_images``."""
    for field in dataclasses.fields(settings):
        free = all_of_them or rules_of(field).resumable
        if entry := entry_kind(field.type):
            yield from resumable_keys(entry, f"{prefix}{field.name}.", free)
        if dataclasses.is_dataclass(field.type):
            yield from resumable_keys(field.type, f"{prefix}{field.name}.", free)  # type: ignore[arg-type]
        elif free:
            yield f"{prefix}{field.name}"
