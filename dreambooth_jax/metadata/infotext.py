# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A1111's ``parameters`` text, which most tools for pictures read and write.

    a photo of a dog
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 3, Size: 512x512, Model: "runs/dog: 2"

The negative prompt's line is left out where it is empty, and of a pair whose value is its key the key stands alone.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

NEGATIVE = "Negative prompt:"
FEWEST = 3
"""Pairs that make a last line one of settings."""

# A key is no longer than any that there is, so that a line of millions of letters costs no more than it is long.
_PAIR = re.compile(r'\s*(\w[\w \-/]{1,80}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


class InfoText(NamedTuple):
    """What such a text says."""

    prompt: str
    negative_prompt: str
    pairs: Mapping[str, str]
    """In the order in which they stand, unquoted."""


def write_infotext(prompt: str, negative_prompt: str, pairs: Mapping[str, Any]) -> str:
    """The text; pairs whose value is None are left out."""
    shown = (
        key if key == str(value) else f"{key}: {quoted(str(value))}"
        for key, value in pairs.items()
        if value is not None
    )
    negative = f"\n{NEGATIVE} {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{', '.join(shown)}".strip()


def read_infotext(text: str) -> InfoText:
    """Prompt, negative prompt and pairs of a text. One without settings is a prompt alone."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < FEWEST:
        lines, pairs = [*lines, last], []
    parts: tuple[list[str], list[str]] = ([], [])
    into = 0
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            into, line = 1, line.removeprefix(NEGATIVE).strip()
        parts[into].append(line)
    prompt, negative_prompt = ("\n".join(part).strip() for part in parts)
    return InfoText(prompt, negative_prompt, {key: unquoted(value.strip()) for key, value in pairs})


def quoted(value: str) -> str:
    """A value as it stands in the text: as JSON, if it has what stands between values."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ",\n:") else value


def unquoted(value: str) -> str:
    """The value that :func:`quoted` wrote; what is no JSON stays as it is."""
    if not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
