# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A process that compiles one target's jobs. Its environment is the compiler's, so it is started for each target."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from real_size.model import write_skeleton

from dreambooth_jax.config import load_config
from dreambooth_jax.hardware import Chip, describe
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.planning.build import step_plan
from dreambooth_jax.planning.elsewhere import versions
from dreambooth_jax.planning.worker import Remembering
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup, mapper_of
from hardware.jobs import Job, missing


def compile_one(job: Job, model: Path, chip: Chip, devices: list) -> dict:
    """The row of a job."""
    config = load_config(None, [f"model.path={model}", *job.settings])
    target = Target.of(devices, memory=chip.memory, described=True)
    pipe = describe_pretrained(config.model.path, revision=config.model.revision, target=target)
    setup = build_train_setup(config, pipe, mapper_of(config, target))
    (active,) = setup.steps
    start = time.monotonic()
    compiler = Remembering(job.target, lambda text: print(f"  {text}", file=sys.stderr, flush=True))
    (size,) = setup.buckets
    plan = step_plan(setup, active, size, compiler=compiler, chip=chip)
    seconds = time.monotonic() - start
    found = {name: version for name, version in versions().items() if version}
    return {"job": asdict(job), "plan": asdict(plan), "seconds": round(seconds, 1), "versions": found}


def main(target: str, models: str, file: Path, folder: Path) -> None:
    """Add rows to ``file``."""
    chip, devices = describe(target)
    for job in missing(file, target, models.split(",")):
        print(job, file=sys.stderr, flush=True)
        row = compile_one(job, write_skeleton(folder / job.model, job.model), chip, devices)
        with file.open("a") as rows:
            rows.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
