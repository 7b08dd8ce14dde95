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
from hardware import members
from hardware.jobs import MODELS, all_jobs, missing
from hardware.table import page

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what is missing, or write the page."""
    parser = argparse.ArgumentParser(prog="hardware_table.py")
    parser.add_argument("what", choices=["compile", "attention", "members", "write"])
    parser.add_argument("--targets", default=",".join(dict.fromkeys(job.target for job in all_jobs())))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rows", type=Path, default=ROOT / "docs" / "hardware.jsonl")
    parser.add_argument("--attention", type=Path, default=ROOT / "docs" / "hardware_attention.jsonl")
    parser.add_argument("--members", type=Path, default=ROOT / "docs" / "hardware_members.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "hardware.md")
    options = parser.parse_args(arguments)
    if options.what == "write":
        options.page.write_text(page(options.rows, options.attention, options.members))
        return 0
    if options.what == "attention":
        return max(run(target, "attention", target, options.attention.resolve()) for target in ("h100", "v5e"))
    if options.what == "members":
        return run(members.TARGET, "members", members.TARGET, options.members.resolve())
    for target in options.targets.split(","):
        if missing(options.rows, target, options.models.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                code = run(target, "compile", target, options.models, options.rows.resolve(), folder)
            if code:
                return code
    return 0


def run(target: str, module: str, *arguments: str | Path) -> int:
    """A process with a compiler's environment."""
    command = [sys.executable, "-m", f"hardware.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT / "scripts", env={**os.environ, **environment(target)}).returncode
