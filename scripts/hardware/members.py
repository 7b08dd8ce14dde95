# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One step of many subjects, each with a LoRA of rank 16 of Stable Diffusion 1.5: what each costs, and what they share.

A process for one target, as ``hardware/compile.py``: rows are added to a file.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from real_size.model import write_skeleton

from dreambooth_jax.config import load_config
from dreambooth_jax.hardware import describe
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.planning.elsewhere import versions
from dreambooth_jax.planning.members import group_steps
from dreambooth_jax.planning.worker import Remembering
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup, mapper_of
from hardware.jobs import chip_of, read

TARGET = "h100"
MEMBERS = (1, 4, 16, 64)
REMAT = ("nothing", "blocks")
COLUMNS = (
    *("card", "remat", "members", "arguments", "temporaries", "peak"),
    *("TFLOP a member", "traffic a member", "at least, ms a member"),
)
HEAD = """
Each member has a LoRA of rank 16 beside the layers (`configs/sd15_lora.yaml`, the UNet alone), moments, rates and
seeds of its own; 1+1 examples of each. *A member* is the step's number divided by that of members: weights and the
program are read once for all of them.
"""


def main(target: str, file: Path) -> None:
    """Add what is not there yet."""
    chip, devices = describe(target)
    done = [(row["target"], row["members"], row["remat"]) for row in read(file)]
    with tempfile.TemporaryDirectory() as folder:
        model = write_skeleton(Path(folder) / "sd15", "sd15")
        for remat in REMAT:
            told = {"model.path": model, "data.instance_images": ".", "data.class_noun": "dog", "train.remat": remat}
            config = load_config("sd15_lora", [f"{key}={value}" for key, value in told.items()])
            device = Target.of(devices, memory=chip.memory, described=True)
            pipe = describe_pretrained(config.model.path, revision=config.model.revision, target=device)
            setup = build_train_setup(config, pipe, mapper_of(config, device))
            compiler = Remembering(target, lambda text: print(f"  {text}", file=sys.stderr, flush=True))
            for members in MEMBERS:
                if (target, members, remat) in done:
                    continue
                (step,) = group_steps(config, setup, members, compiler, chip)
                found = {name: version for name, version in versions().items() if version}
                row = {"target": target, "members": members, "remat": remat, "step": asdict(step), "versions": found}
                with file.open("a") as rows:
                    rows.write(json.dumps(row) + "\n")


def section(rows: list[dict[str, Any]], *, full: list[dict[str, Any]]) -> Iterator[str]:
    """Of docs/hardware.md.

    Args:
        rows: of steps of many subjects.
        full: of single steps, of which those of the whole UNet stand beside.
    """
    if not rows:
        return
    yield "\n## Many subjects in one step\n"
    yield HEAD
    yield f"| {' | '.join(COLUMNS)} |"
    yield "| --- " * len(COLUMNS) + "|"
    for row in sorted(rows, key=lambda row: (row["target"], REMAT.index(row["remat"]), row["members"])):
        yield f"| {' | '.join(_cells(row))} |"
    yield from _beside_full(rows, full)


def _beside_full(rows: list[dict[str, Any]], full: list[dict[str, Any]]) -> Iterator[str]:
    """What one LoRA needs, and what the whole UNet does in the same way on the same card."""
    found = []
    for remat, name in zip(REMAT, ("without remat", "with")):
        lora = [row["step"] for row in rows if (row["target"], row["members"], row["remat"]) == (TARGET, 1, remat)]
        whole = [row["plan"] for row in full if is_full(row["job"]) and row["job"]["remat"] == remat]
        if not lora or not whole:
            return
        a, b = (one["usage"] for one in (lora[0], whole[0]))
        found.append(
            f"{name} {peak_of(a) / 1e9:.1f} GB beside {peak_of(b) / 1e9:.1f}, of which temporaries "
            f"{a['temporaries'] / 1e9:.2f} beside {b['temporaries'] / 1e9:.2f}"
        )
    yield "\nOne member is a LoRA trained by itself. Beside a full step of the UNet on the same card:"
    yield ";\n".join(found) + "."


def is_full(job: dict[str, Any]) -> bool:
    """Whether a job is the whole UNet of SD 1.5, 1+1 examples on the card that members are compiled for."""
    of_full = {"target": TARGET, "model": "sd15", "text_encoder": False, "batch": 1}
    return all(job[name] == value for name, value in of_full.items()) and job.get("adapter", "full") == "full"


def peak_of(usage: dict[str, int]) -> int:
    """Bytes on the device."""
    return sum(usage[part] for part in ("arguments", "results", "temporaries"))


def _cells(row: dict[str, Any]) -> list[str]:
    step, members = row["step"], row["members"]
    usage, work = step["usage"], step["work"]
    bound = work["bound"]
    limit = max(("arithmetic", "memory", "links"), key=bound.get)
    peak = peak_of(usage)
    fits = peak <= 0.9 * chip_of(row["target"]).memory
    return [
        row["target"],
        row["remat"],
        str(members),
        f"{usage['arguments'] / 1e9:.2f}",
        f"{usage['temporaries'] / 1e9:.2f}",
        f"{peak / 1e9:.1f}" if fits else f"**{peak / 1e9:.1f}**",
        f"{step['flops'] / 1e12 / members:.2f}",
        f"{work['traffic'] / 1e9 / members:.1f}",
        f"{1e3 * bound[limit] / members:.2f} ({limit})",
    ]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
