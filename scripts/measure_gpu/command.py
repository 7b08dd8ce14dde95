# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All that only a card can tell: how fast, how much memory, equal from run to run, how exact.

    measure_gpu.sh install          two virtual environments: jax for CUDA, and PyTorch beside it
    measure_gpu.sh PART [OUT]       one part, at most nine minutes; again, it goes on with what is not done
    measure_gpu.sh all [OUT]        every part, at most 25 minutes in all
    measure_gpu.sh table [OUT]      the Markdown table of what is there

parts, in the order of all:

    ours      optimizer steps of the UNet at 1+1 to 32+32 examples, 512 pixels, cached latents and texts, bfloat16,
              AdamW; peak memory as the compiler predicts it and as the device reports it
    compile   the same by PyTorch diffusers: torch.compile, channels-last, autocast to bfloat16, SDPA, fused AdamW
    training  short runs: train.deterministic twice, without it twice, and in float32
    whole     dreambooth-jax train: 4 photos, 200 class images, 800 steps, with the seconds of every stage, and its
              peak memory beside the prediction of dreambooth-jax plan
    members   steps of 1, 4 and 16 subjects by one program (LoRA of rank 16, 1+1 examples each): subjects per hour
    pictures  DDIM, 50 steps, of 1 and of 8 pictures, ours, compile and eager
    eager     the steps by PyTorch without torch.compile

OUT has a JSON file for each part, table.md, logs and the model (random weights, 4.3 GB). What does not fit into memory
or takes too long is written down as that.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure_gpu.parts import OURS, PARTS, SCALES, SHARES, Row
from measure_gpu.process import Place, is_final, measure_row
from measure_gpu.table import report

PART_SECONDS = 530.0
SHORTEST = 5.0
"""Seconds that a row needs at least: with less left it is not started."""


def measure_part(place: Place, part: str, seconds: float) -> bool:
    """Measure what is missing of a part, row by row. Returns whether all of it is there."""
    path = place.out / f"{part}.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else {}
    end = time.monotonic() + seconds
    missing = [row for row in PARTS[part](SCALES[place.size]) if not is_final(known.get(row.name, {"failed": "new"}))]
    if missing and not write_model(place, seconds):
        return False
    for number, row in enumerate(missing):
        left = end - time.monotonic()
        print(f"{part} {row.name:<22}", end="", flush=True)
        found = measure_row(place, row, part, left) if left > SHORTEST else None
        if found is None:
            print(f"no time is left for it{rest(missing[number + 1 :])}; again: measure_gpu.sh {part}")
            break
        known[row.name] = found
        write(path, {"part": part, "size": place.size, "rows": known})
        print(f"{outcome(found):<44}{found['wall']:6.0f} s", flush=True)
    return all(is_final(known.get(row.name, {"failed": "new"})) for row in PARTS[part](SCALES[place.size]))


def measure_parts(place: Place, parts: Sequence[str], seconds: float | None) -> bool:
    """One after the other, each in its time and in what those before it left over. Returns whether all is there."""
    end = time.monotonic() + (sum(SHARES.values()) if len(parts) > 1 else PART_SECONDS)
    done = True
    for number, part in enumerate(parts):
        others = sum(SHARES[later] for later in parts[number + 1 :])
        left = min(PART_SECONDS, end - time.monotonic() - others)
        done = measure_part(place, part, seconds or left) and done
    return done


def rest(rows: list[Row]) -> str:
    """Those after it."""
    return f", nor for {', '.join(row.name for row in rows)}" if rows else ""


def outcome(row: dict[str, Any]) -> str:
    """A few words of progress."""
    if "failed" in row:
        return row["failed"][:200]
    if row["task"] == "step":
        return f"{row['median']:.4f} s a step, {2 * row['batch'] / row['median']:.1f} images/s"
    return f"{row['median']:.4f} s" if "median" in row else "done"


def write_model(place: Place, seconds: float) -> bool:
    """Once for all parts. Returns whether it is there."""
    if not place.model.exists():
        place.out.mkdir(parents=True, exist_ok=True)
        print("the model, of random weights", end=" ", flush=True)
        row = Row(name="model", task="model", arguments={}, limit=seconds, environment={"JAX_PLATFORMS": "cpu"})
        found = measure_row(place, row, "model", seconds)
        print(outcome(found or {"failed": "no time is left for it"}), flush=True)
    return place.model.exists()


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.rename(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all that was asked for is there, else 1."""
    parser = argparse.ArgumentParser(
        prog="measure_gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "all", "table"], help="what to measure")
    parser.add_argument("out", nargs="?", type=Path, default=Path("measured"), help="folder; default: measured")
    parser.add_argument("--size", choices=SCALES, default="sd15", help="tiny: everything in minutes on a CPU")
    parser.add_argument(
        "--seconds", type=float, help="for each part; default: 530, and in all 25 minutes for all of them"
    )
    options = parser.parse_args(arguments)
    pythons = {
        OURS: os.environ.get("OURS_PYTHON", sys.executable),
        "torch": os.environ.get("TORCH_PYTHON", sys.executable),
    }
    place = Place(out=options.out.resolve(), size=options.size, pythons=pythons)
    parts = {"all": list(PARTS), "table": []}.get(options.part, [options.part])
    done = measure_parts(place, parts, options.seconds)
    found = {part: json.loads(path.read_text()) for part in PARTS if (path := place.out / f"{part}.json").exists()}
    if found:
        text = report({part: content["rows"] for part, content in found.items()})
        (place.out / "table.md").write_text(text)
        print(f"\n{text}\n{place.out / 'table.md'}")
    return int(not done)
