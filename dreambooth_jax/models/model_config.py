# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How a network's ``config.json``, of diffusers or transformers, is read.

Field names and defaults are those of the files, which leave out what has its default. Every key of a file is one of
four things: a field; a choice of which we have only some values; irrelevant to the network; unknown. An unknown
key that holds nothing (null, false, 0, empty) is harmless, any other asks for something we don't have.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, TypeAlias, TypeVar

from dreambooth_jax.errors import InputError

_LARGEST = 2**20
"""Of sizes: far above any network's, and below what overflows shapes."""
_DEEPEST = 1000
"""Of layers."""

T = TypeVar("T")
C = TypeVar("C", bound="ModelConfig")  # not typing.Self, which run-time checkers refuse outside classes of theirs
PerBlock: TypeAlias = T | tuple[T, ...]
Choices: TypeAlias = Mapping[str, Sequence[Any]]


class ModelConfig:
    """What all have in common: reading a file, and refusing what it asks for in vain."""

    CHOICES: ClassVar[Choices]
    """Keys of which only these values are supported. Those that are no fields have one meaning, whatever the value."""
    IRRELEVANT: ClassVar[tuple[str, ...]]
    """Keys that the network's output does not depend on."""
    PER_BLOCK: ClassVar[tuple[str, ...]] = ()
    """Fields that may hold a tuple: one value for each of ``block_out_channels``."""
    DEPTHS: ClassVar[tuple[str, ...]] = ()
    """Fields that count layers, each of which is built one by one."""
    REAL: ClassVar[tuple[str, ...]] = ()
    """Fields that hold real numbers, which files may write as whole ones."""
    PER_LAYER: ClassVar[tuple[str, ...]] = ()
    """Fields of which each block may have a tuple: one value for each of its layers; they may be 0."""

    @classmethod
    def from_json(cls: type[C], raw: Mapping[str, Any], *, file: str = "config.json") -> C:
        """From the content of a ``config.json``.

        Args:
            raw: the content.
            file: how to call it in errors.

        Raises:
            InputError: naming the first key whose value is malformed or asks for something we don't have.
        """
        try:
            return cls._from_json(raw)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    @classmethod
    def _from_json(cls: type[C], raw: Mapping[str, Any]) -> C:
        defaults = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        for key, value in raw.items():
            if key in cls.CHOICES:
                cls._check_choices(key, value)
            elif key not in defaults and key not in cls.IRRELEVANT and not key.startswith("_") and value:
                raise cls._unsupported(key, value, "its absence")
        return cls(**{key: cls._value(key, raw[key], default) for key, default in defaults.items() if key in raw})

    @classmethod
    def _value(cls, key: str, value: Any, default: Any) -> Any:
        """The value of a field in its own type."""
        value = _as_tuple(value, deep=key in cls.PER_LAYER)
        if (default is None and key in cls.CHOICES) or (value is None and None in cls.CHOICES.get(key, ())):
            return value
        wanted, listed = isinstance(default, tuple), isinstance(value, tuple)
        if not _alike(value, default) or (listed != wanted and not (listed and key in cls.PER_BLOCK)):
            raise cls._unsupported(key, value, f"something like {default!r}")
        for one in _numbers(value):
            cls._check_number(key, one)
        return float(value) if isinstance(default, float) else value

    @classmethod
    def _check_number(cls, key: str, value: Any) -> None:
        """Counts and sizes are at least 1; real numbers are finite, and not negative."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if isinstance(value, float) or key in cls.REAL:
            if not (math.isfinite(value) and value >= 0):
                raise cls._unsupported(key, value, "a finite number that is not negative")
            return
        least, most = int(key not in cls.PER_LAYER), _DEEPEST if key in cls.DEPTHS else _LARGEST
        if not least <= value <= most:
            raise cls._unsupported(key, value, f"from {least} to {most}")

    @classmethod
    def _unsupported(cls, key: str, value: Any, wanted: str) -> InputError:
        return InputError(f"{key} = {value!r} is not supported, only {wanted}")

    @classmethod
    def _check_choices(cls, key: str, value: Any) -> None:
        known = cls.CHOICES[key]
        items = value if isinstance(value, list | tuple) else (value,)
        if any(item not in known for item in items):
            raise cls._unsupported(key, value, " or ".join(repr(choice) for choice in known))

    def _check_blocks(self, count: int) -> None:
        for key in self.PER_BLOCK:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != count:
                raise self._unsupported(key, value, f"one value for each of the {count} block_out_channels")

    def _check_divides(self, key: str, parts: int, channels: Sequence[int]) -> None:
        if parts < 1 or any(size % parts for size in channels):
            raise self._unsupported(key, parts, f"a divisor of {', '.join(map(str, channels))} channels")


def _as_tuple(value: Any, *, deep: bool) -> Any:
    """A list as a tuple; ``deep``: those in it, too."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(_as_tuple(one, deep=False) for one in value) if deep else tuple(value)


def _numbers(value: Any) -> Iterator[Any]:
    """All that a value holds."""
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    else:
        yield value


def _alike(value: Any, default: Any) -> bool:
    """Whether a value, or each of a tuple's, is of the default's kind; a default of None stands for an integer."""
    if isinstance(value, tuple):
        return bool(value) and all(item is not None and _alike(item, default) for item in value)
    kind = default[0] if isinstance(default, tuple) else default
    if kind is None and value is None:
        return True
    if isinstance(value, bool) or isinstance(kind, bool | str):
        return isinstance(value, type(kind))
    return isinstance(value, int | float if isinstance(kind, float) else int)
