# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Places in the file system as people write them."""

from pathlib import Path


def at_home(path: str | Path) -> Path:
    """A path whose leading ``~`` is the user's home. ``~name`` stays as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
