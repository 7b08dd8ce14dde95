# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of the command line that somebody may change from a browser.

Numbers, switches and choices may be, and of texts those that are listed here. All other texts name files, hosts, models
or patterns, or are asked for elsewhere on the page: a new setting stays closed until somebody opens it here.
"""

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, get_args, get_origin

from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.cli.pages import entries_of, values_of
from dreambooth_jax.config import Config
from dreambooth_jax.config.parse import check_known, keys
from dreambooth_jax.config.setting import Rules, rules_of
from dreambooth_jax.errors import InputError

TEXTS = (
    *("data.instance_prompt", "data.templates", "data.background"),
    *("prior.negative_prompt", "prior.prompts", "prior.class_prompt", "prior.class_images_prompt"),
    *("samples.negative_prompt", "samples.prompts", "samples.class_prompts"),
    *("tokens.words", "tokens.init"),
)
"""Prompts, words and colours."""
LAYERS = ("adapter.targets", "adapter.text_encoder_targets")
"""Names of layers, of which patterns are closed: one can be written that takes for ever."""
CLOSED = ("train.device_memory", "train.parallel", "train.fsdp_devices")
"""What the machine can do is not asked of a client."""
CLOSED_GROUPS = ("model", "evaluate")
MOST_LINES = 60
_NAMES = re.compile(r"[\w; -]*")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A setting that may be changed.

    Attributes:
        key: such as ``train.steps``.
        help: of the command line.
        values: what may be given, and what is taken otherwise.
    """

    key: str
    help: str
    values: str


@cache
def opened() -> dict[str, Opened]:
    """Key -> what may be changed."""
    entries, rules = dict(entries_of(Config)), dict(_rules(Config))
    return {
        key: Opened(key, option.help, values_of(option.kind, default).strip("[]"))
        for key, (option, default) in entries.items()
        if _is_open(key, option.kind, rules[key])
    }


def words_of(text: str) -> list[str]:
    """``KEY=VALUE`` of each line.

    Raises:
        InputError: for a line that is none, a setting that there is not or that is closed, or a text that may not be.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_LINES:
        raise InputError(f"settings: {len(lines)} lines, at most {MOST_LINES}")
    return [_word(line) for line in lines]


def _word(line: str) -> str:
    key, equals, value = (part.strip() for part in line.partition("="))
    check_text("settings: a line", line)
    if not equals:
        raise InputError(f"settings: {line!r} is none: write KEY=VALUE on a line of its own, such as train.steps=400")
    check_known(key, list(keys()))
    if key not in opened():
        raise InputError(f"{key} is not set from the page: it belongs to whoever serves it, or has a field of its own")
    if key in LAYERS and not _NAMES.fullmatch(value):
        raise InputError(f"{key} = {value!r}: names of layers alone, such as attn-mlp; no patterns")
    return f"{key}={value}"


def _is_open(key: str, kind: Any, rules: Rules) -> bool:
    if rules.path or key in CLOSED or key.partition(".")[0] in CLOSED_GROUPS:
        return False
    return key in TEXTS or key in LAYERS or rules.size or bool(rules.one_of) or not _holds_text(kind)


def _holds_text(kind: Any) -> bool:
    """May a value of this type be any text? A list of settings may."""
    if get_origin(kind) is Literal:
        return False
    return kind is str or dataclasses.is_dataclass(kind) or any(_holds_text(part) for part in get_args(kind))


def _rules(settings: Any, prefix: str = "") -> Iterator[tuple[str, Rules]]:
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(field.type):
            yield from _rules(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", rules_of(field)
