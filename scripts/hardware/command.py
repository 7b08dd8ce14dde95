# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The command line of ``scripts/hardware_table.py``."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.hardware import environment
from hardware.jobs import EIGHT, SINGLE, SLICES, missing
from hardware.table import page

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what is missing, or write the page."""
    parser = argparse.ArgumentParser(prog="hardware_table.py")
    parser.add_argument("what", choices=["compile", "write"])
    parser.add_argument("--targets", default=",".join((*SINGLE, *EIGHT, *SLICES)))
    parser.add_argument("--rows", type=Path, default=ROOT / "docs" / "hardware.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "hardware.md")
    options = parser.parse_args(arguments)
    if options.what == "write":
        options.page.write_text(page(options.rows))
        return 0
    for target in options.targets.split(","):
        if missing(options.rows, [target]):
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [sys.executable, "-m", "hardware.compile", target, str(options.rows.resolve()), folder],
                    cwd=ROOT / "scripts",
                    env={**os.environ, **environment(target)},
                )
            if done.returncode:
                return done.returncode
    return 0
