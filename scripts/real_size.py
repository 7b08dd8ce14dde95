# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Does a model of real size fit on one machine, and is it right there? Memory and seconds of every stage.

    build    a folder in the diffusers layout: SD 1.5's configurations, random weights, float32
    load     load_pretrained                                     memory <= 1.3 x the size of the files
    unet     one call of our UNet, batch 2
    torch    the same call with PyTorch diffusers                max |Δ| <= 1e-5 of the output's scale
    sample   a guided picture in two steps
    train    two steps of the trainer: whole UNet, AdamW, prior preservation, rematerialisation

    python scripts/real_size.py --folder /tmp/sd15 --out report.json

Every stage is a process of its own: its peak is its own, and all its memory is free again when it ends.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from real_size.model import SIZES
from real_size.stages import GB, STAGES, Journal, Place, peak_gb

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"memory_per_file_size": 1.3, "difference_per_scale": 1e-5}
# Without it rematerialisation saves no memory on jaxlib 0.10's CPU backend: the compiler merges what it should repeat.
REMAT_FLAG = "--xla_disable_hlo_passes=cse_barrier_expander"


def run_stage(name: str, place: Place, *, spare_gb: float) -> dict[str, Any]:
    """What a stage reports, and what the operating system says of its process."""
    report = place.folder / f"{name}.json"
    report.unlink(missing_ok=True)
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONPATH": python_path}
    if name == "train":
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {REMAT_FLAG}"
    command = [sys.executable, __file__, "--run", name, "--size", place.size, "--folder", str(place.folder)]
    print(f"{name}:", flush=True)
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    stopped = False
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        if available_gb() < spare_gb and not stopped:
            stopped = True
            process.kill()
        time.sleep(0.1)
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    entry = {"stage": name, "seconds": time.monotonic() - begin, "peak_gb": peak_gb(ended[2])}
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
    lines = [f"{'stage':<8} {'seconds':>8} {'peak GB':>8}  result"]
    for report in reports:
        numbers = {name: value for name, value in report.items() if name not in ("stage", "seconds", "peak_gb", "log")}
        result = "; ".join(shortfalls(report)) or ", ".join(f"{name} {short(n)}" for name, n in numbers.items())
        lines.append(f"{report['stage']:<8} {report['seconds']:8.1f} {report['peak_gb']:8.2f}  {result}")
    return "\n".join(lines)


def short(value: Any) -> str:
    """For people."""
    if isinstance(value, dict):
        return " + ".join(f"{name} {short(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """0 if every stage ended and is good enough, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for model and results; 4.3 GB at size sd15")
    parser.add_argument("--size", choices=SIZES, default="sd15", help="tiny: the same with two small blocks")
    parser.add_argument("--stages", default=",".join(STAGES), help="which, with commas between; default: all")
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    parser.add_argument("--spare-gb", type=float, default=1.0, help="stop when the machine has less memory left")
    parser.add_argument("--run", choices=STAGES, help=argparse.SUPPRESS)  # one stage, in this process
    arguments = parser.parse_args()
    place = Place(folder=arguments.folder, size=arguments.size)
    place.folder.mkdir(parents=True, exist_ok=True)
    if arguments.run:
        journal = Journal()
        result = STAGES[arguments.run](place, journal)
        (place.folder / f"{arguments.run}.json").write_text(json.dumps(result | {"log": journal.entries}))
        return 0

    stages = arguments.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}: there are {', '.join(STAGES)}")
    reports = []
    for name in stages:
        reports.append(run_stage(name, place, spare_gb=arguments.spare_gb))
        if "failed" in reports[-1]:
            break
    print(f"\n{table(reports)}")
    if arguments.out:
        arguments.out.write_text(json.dumps(reports, indent=2) + "\n")
    return int(any(any(shortfalls(report)) for report in reports))


if __name__ == "__main__":
    sys.exit(main())
