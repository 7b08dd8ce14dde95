# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a picture's text says in our own settings."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Remake:
    """How to make a picture again."""

    tool: str
    """What made it."""
    prompt: str
    seed: Any
    options: Mapping[str, Any]
    """Fields of the sampling settings, not checked yet."""
    model: str = ""
    """What the tool called the model."""
    lacking: list[str] = field(default_factory=list)
    """What cannot be repeated, a line each."""
    fingerprint: str = ""
    """Of the model, where the picture is ours."""
    batch: int = 1
    """Pictures that were made at once, ours."""
    position: int = 0
    """Number of the picture among them."""


def shown(value: Any) -> str:
    """A stranger's value on one line, not too long."""
    text = " ".join(str(value).split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def number(text: Any) -> Any:
    """The number that a text is, or the value as it is."""
    if isinstance(text, str) and re.fullmatch(r"[-+]?[0-9]{1,20}", text.strip(), re.ASCII):
        return int(text)
    if isinstance(text, str) and re.fullmatch(
        r"[-+]?[0-9]{0,20}\.?[0-9]{0,20}(e[-+]?[0-9]{1,3})?", text.strip(), re.ASCII
    ):
        try:
            return float(text)
        except ValueError:
            return text
    return text


PICTURE = "the picture that it began with"
"""A line's beginning, where a run began with one: it is not in the file, and may be told."""

WORDS = "the new words of its prompts"
"""A line's beginning, where there are some that files give a meaning."""


def words_line(words: Iterable[Any]) -> str:
    """A line about new words."""
    return f"{WORDS}, {', '.join(map(shown, dict.fromkeys(words)))}: give them with embedding=FILE"


ADAPTERS = "the adapters that were added to its model"
"""A line's beginning, where there were some."""


def adapters_line(names: Iterable[Any]) -> str:
    """A line about adapters, ``dog:0.8``."""
    return f"{ADAPTERS}, {', '.join(map(shown, names))}: give them with lora=FILE:WEIGHT"


REFINER = "the refiner that drew its last steps"
"""A line's beginning, where there was one."""


def refiner_line(name: Any) -> str:
    """A line about a refiner."""
    return f"{REFINER}, {shown(name)}: give it with refiner=MODEL"


TREES = frozenset({"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"})
"""Samplers whose noise comes from torchsde in A1111 and ComfyUI."""


def lacking_tree(sampler: str) -> list[str]:
    """A line for samplers whose noise is not made again."""
    if sampler not in TREES:
        return []
    return [f"the noise of {sampler}'s steps, which torchsde draws as a tree: the first noise alone is the same"]
