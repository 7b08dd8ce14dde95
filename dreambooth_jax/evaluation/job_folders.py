# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Folders that know what they are made of (``job.json``), so that the same job goes on in its folder, and another one
begins its own: ``dogs``, ``dogs-2``, ..."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from dreambooth_jax.text_files import read_text, write_text

JOB = "job.json"


def job_folder(base: Path, name: str, about: Mapping[str, Any]) -> Path:
    """Where a job's pictures go: the first folder of its name that was begun by the same job, or a new one.

    Args:
        base: folder of all jobs.
        name: of the job.
        about: all that decides its pictures.
    """
    wanted = json.loads(json.dumps(about, default=str))
    for folder in (base / (name if n == 1 else f"{name}-{n}") for n in count(1)):
        if not folder.exists():
            folder.mkdir(parents=True)
            write_text(folder / JOB, json.dumps(wanted, indent=1, ensure_ascii=False) + "\n")
            return folder
        if (folder / JOB).is_file() and _read(folder / JOB) == wanted:
            return folder
    raise AssertionError("unreachable")


def _read(path: Path) -> Any:
    """What a job's file says; nothing if it is broken."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError):
        return None
