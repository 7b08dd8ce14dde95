# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A process for each stage, and a table of what they needed."""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from real_size.model import SIZES, made
from real_size.stages import GB, STAGES, Journal, Place, peak_gb

SCRIPT = Path(__file__).parents[1].resolve() / "real_size.py"
LIMITS = {"memory_per_file_size": 1.3, "difference_per_scale": 1e-5}
# Without it rematerialisation saves no memory on jaxlib 0.10's CPU backend: the compiler merges what it should repeat.
REMAT_FLAG = "--xla_disable_hlo_passes=cse_barrier_expander"


def run_stage(name: str, place: Place, *, spare_gb: float) -> dict[str, Any]:
    """What a stage reports, and what the operating system says of its process."""
    report = place.report(name)
    report.unlink(missing_ok=True)
    python_path = os.pathsep.join(filter(None, [str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH")]))
    own = {"train": REMAT_FLAG, "compiled": ""}.get(name, made(place.size).xla_flags)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONPATH": python_path}
    if flags := " ".join(filter(None, [os.environ.get("XLA_FLAGS"), own])):
        environment["XLA_FLAGS"] = flags
    command = [sys.executable, str(SCRIPT), "--run", name, "--size", place.size, "--folder", str(place.folder)]
    print(f"{name}:", flush=True)
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    stopped = False
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        if available_gb() < spare_gb and not stopped:
            stopped = True
            process.kill()
        time.sleep(0.1)
    seconds, (_, status, usage) = time.monotonic() - begin, ended
    process.returncode = os.waitstatus_to_exitcode(status)
    processor = usage.ru_utime + usage.ru_stime
    entry = {"stage": name, "seconds": seconds, "cpu_seconds": processor, "peak_gb": peak_gb(usage)}
    if stopped:
        return entry | {"failed": f"stopped, because less than {spare_gb:g} GB of the machine's memory were left"}
    if process.returncode:
        return entry | {"failed": f"exit code {process.returncode}"}
    return entry | json.loads(report.read_text())


def available_gb() -> float:
    """What the machine can still give, where it says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next(float(line.split()[1]) * 1024 / GB for line in lines if line.startswith("MemAvailable"))


def shortfalls(report: dict[str, Any]) -> Iterator[str]:
    """Why a stage is not good enough."""
    if "failed" in report:
        yield report["failed"]
    for name, limit in LIMITS.items():
        tiny = name == "memory_per_file_size" and report.get("file_gb", 0) < 1  # drowned by what tracing takes
        if name in report and not tiny and not report[name] <= limit:
            yield f"{name} {report[name]:.3g} is above {limit:g}"


def table(reports: list[dict[str, Any]]) -> str:
    """One line for each stage."""
    columns = ("seconds", "cpu_seconds", "peak_gb")
    lines = [" ".join([f"{'stage':<8}", *(f"{column:>11}" for column in columns), " result"])]
    for report in reports:
        others = {name: value for name, value in report.items() if name not in (*columns, "stage", "log")}
        result = "; ".join(shortfalls(report)) or ", ".join(f"{name} {short(value)}" for name, value in others.items())
        numbers = (f"{report[column]:11.2f}" for column in columns)
        lines.append(" ".join([f"{report['stage']:<8}", *numbers, f" {result}"]))
    return "\n".join(lines)


def short(value: Any) -> str:
    """For people."""
    if isinstance(value, dict):
        return " + ".join(f"{name} {short(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(description: str | None, arguments: Sequence[str] | None = None) -> int:
    """0 if every stage ended and is good enough, else 1."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for model and results; 4.3 GB of sd15, 6.9 of sdxl")
    parser.add_argument("--size", choices=SIZES, default="sd15", help="tiny, tiny_xl: two small blocks")
    parser.add_argument("--stages", help="which, with commas between; default: all, of sdxl all but train")
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    parser.add_argument("--spare-gb", type=float, default=1.0, help="stop when the machine has less memory left")
    parser.add_argument("--run", choices=STAGES, help=argparse.SUPPRESS)  # one stage, in this process
    options = parser.parse_args(arguments)
    stages = options.stages.split(",") if options.stages else made(options.size).stages or tuple(STAGES)
    if unknown := sorted(set(stages) - set(STAGES)):
        parser.error(f"no stage {', '.join(unknown)}: there are {', '.join(STAGES)}")
    place = Place(folder=options.folder, size=options.size)
    place.folder.mkdir(parents=True, exist_ok=True)
    if options.run:
        journal = Journal()
        result = STAGES[options.run](place, journal)
        place.report(options.run).write_text(json.dumps(result | {"log": journal.entries}))
        return 0

    reports = []
    for name in stages:
        reports.append(run_stage(name, place, spare_gb=options.spare_gb))
        if "failed" in reports[-1]:
            break
    print(f"\n{table(reports)}")
    if options.out:
        options.out.write_text(json.dumps(reports, indent=2) + "\n")
    return int(any(any(shortfalls(report)) for report in reports))
