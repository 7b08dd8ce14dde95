# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A process for each row: what it found, or in a few words why it found nothing."""

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure_gpu.parts import OURS, Row

SCRIPTS = Path(__file__).parents[1].resolve()
NO_MEMORY = "out of memory"
TOO_LONG = "more than"
SIGNS = ("RESOURCE_EXHAUSTED", "OutOfMemoryError", "out of memory", "Out of memory", "does not fit")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are.

    Attributes:
        out: folder of results, logs, the model and compiled programs.
        size: of the model.
        pythons: interpreter of each side: ours, and PyTorch's.
    """

    out: Path
    size: str
    pythons: dict[str, str]

    @property
    def model(self) -> Path:
        """In the diffusers layout."""
        return self.out / f"model-{self.size}"

    def environment(self, row: Row) -> dict[str, str]:
        """Of a row's process. PyTorch's has jax too, for the stop-watch, but not the GPU for it."""
        variables = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)]),
            "HF_HUB_OFFLINE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.out / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TORCHINDUCTOR_CACHE_DIR": str(self.out / "inductor"),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93",
        }
        return variables | ({} if row.peer == OURS else {"JAX_PLATFORMS": "cpu"}) | row.environment


def measure_row(place: Place, row: Row, part: str, seconds: float) -> dict[str, Any] | None:
    """What is known afterwards; None if it was not the row's own limit that ended it, but these ``seconds``."""
    begin = time.monotonic()
    for arguments in [row.arguments, *([row.arguments | row.otherwise] if row.otherwise else [])]:
        limit = min(row.limit, seconds - (time.monotonic() - begin))
        found = attempt(place, row, arguments, log=f"{part}.{row.name}", limit=limit)
        if limit < row.limit and is_late(found):
            return None
        if found.get("failed") != NO_MEMORY:
            break
    return {"peer": row.peer, "task": row.task} | arguments | found | {"wall": time.monotonic() - begin}


def attempt(place: Place, row: Row, arguments: dict[str, Any], *, log: str, limit: float) -> dict[str, Any]:
    """One process. Its output is in ``logs``."""
    if limit <= 0:
        return {"failed": f"{TOO_LONG} 0 s"}
    logs = place.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path, result = logs / f"{log.replace(' ', '_')}.log", logs / f"{log.replace(' ', '_')}.json"
    result.unlink(missing_ok=True)
    python = place.pythons[OURS if row.peer == OURS else "torch"]
    words = [row.peer, row.task, place.size, str(place.model), json.dumps(arguments), str(result)]
    with path.open("w") as output:
        process = subprocess.Popen(
            [python, "-m", "measure_gpu.tasks", *words],
            env=place.environment(row),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"{TOO_LONG} {limit:.0f} s"}
        finally:
            end(process)
    if process.returncode == 0 and result.exists():
        return json.loads(result.read_text())
    return {"failed": reason(path.read_text(errors="replace"), process.returncode)}


def end(process: subprocess.Popen) -> None:
    """It and all that it started, such as PyTorch's compilers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def reason(log: str, code: int) -> str:
    """From the end of what a process printed."""
    if any(sign in log for sign in SIGNS):
        return NO_MEMORY
    lines = [line for line in log.splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1].strip()[:300] if lines else 'it said nothing'}"


def is_late(row: dict[str, Any]) -> bool:
    """Was it given up?"""
    return row.get("failed", "").startswith(TOO_LONG)


def is_final(row: dict[str, Any]) -> bool:
    """Done, or not to be had: to try it again would find the same."""
    return row.get("failed", NO_MEMORY) == NO_MEMORY or is_late(row)
