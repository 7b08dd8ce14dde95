# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""docs/hardware.md from its rows."""

from pathlib import Path


def page(file: Path) -> str:
    """The whole page."""
    return file.read_text()
