# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""JSON that others wrote: bounded in size and depth, and one line where it is not what it should be."""

import json
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError

LARGEST = 32 * 2**20
"""Bytes of a file of settings; an index of a model with a hundred thousand arrays is a tenth of it."""


def read_json(file: Path) -> dict[str, Any]:
    """Settings.

    Raises:
        InputError: naming the file, if it holds none, or is too large or too deep.
    """
    size = file.stat().st_size
    if size > LARGEST:
        raise InputError(f"{file} has {size} bytes, more than the {LARGEST} that settings may have: take another copy")
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    return parse_json(text, what=str(file))


def parse_json(text: str, *, what: str) -> dict[str, Any]:
    """Settings of a text.

    Args:
        text: of one JSON object.
        what: to call it in errors.

    Raises:
        InputError: if it is none, or too deep.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{what} is not valid JSON: it is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{what} holds no settings")
    return content
