# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Places in the file system as people write them."""

import os
from pathlib import Path

from dreambooth_jax.errors import InputError

LONGEST_NAME = 255
"""Bytes of a name that the usual file systems hold."""
LONGEST_PATH = 4096
"""Bytes of a whole path."""


def at_home(path: str | Path) -> Path:
    """A path whose leading ``~`` is the user's home. ``~name`` stays as it is where there is no such user.

    Raises:
        InputError: if it is no path, or longer than file systems hold: asking for it would fail in many ways.
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"{path!r} is no path: give a text")
    text = str(path)
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(name)) > LONGEST_NAME for name in Path(text).parts):
        raise InputError(f"{text[:40]}...: a path of {len(text)} characters is no file's; was a text meant?")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
