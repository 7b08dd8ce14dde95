# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Checks of a call's arguments."""

from collections.abc import Iterable, Sequence
from typing import Any

from dreambooth_jax.errors import InputError


def check(name: str, value: Any, fine: bool, rule: str) -> None:
    """Raise InputError, naming the argument, its value and the rule, unless it is fine."""
    if not fine:
        raise InputError(f"{name} = {value!r}: {rule}")


def texts_of(name: str, texts: str | Sequence[str], count: int | None = None) -> list[str]:
    """A list of ``count`` texts."""
    check(name, texts, isinstance(texts, Iterable), "must be a text, or several")
    several = [texts] * (count or 1) if isinstance(texts, str) else list(texts)
    check(name, texts, len(several) > 0, "give at least one")
    check(name, texts, all(isinstance(text, str) for text in several), "must be texts")
    check(name, texts, count in (None, len(several)), f"give one, or one for each of {count} prompts")
    return several
