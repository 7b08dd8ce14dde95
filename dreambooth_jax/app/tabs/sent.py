# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What fields send, as requests take it: numbers that are some, and pictures that nobody has decoded yet."""

import math
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError


def number(what: str, value: Any, *, usual: float = 0) -> float:
    """A number.

    Args:
        what: that errors name.
        value: of a field.
        usual: where the field is empty.

    Raises:
        InputError: if it is none.
    """
    if value is None or value == "":
        return usual
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} is no number")
    return value


def undecoded(file: Any, *_: Any, **__: Any) -> Path | bytes | None:
    """A picture as it has come: a file that the server has put somewhere, or bytes.

    In the place of what components do with pictures: they are decoded within our bounds, not before.
    """
    if file is None or isinstance(file, bytes):
        return file
    return Path(file.path) if file.path else None
