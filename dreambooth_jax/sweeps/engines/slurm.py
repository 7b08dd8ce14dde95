# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""On SLURM: an array job for each stage, which waits for the one before. All nodes must see the sweep's folder.

The scripts stay in ``jobs/`` of the folder. Near its time limit a task saves and ends; the same command submits what is
left again.
"""

import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.sweeps.engines.base import Ended, EngineOptions, command_of
from dreambooth_jax.sweeps.jobs import Job, Stages, write_stages
from dreambooth_jax.sweeps.sweep import JOBS, Sweep
from dreambooth_jax.text_files import write_text

log = logging.getLogger(__name__)

SCRIPT = """#!/usr/bin/env bash
# {what}: one task for each. Written by dreambooth-jax sweep; further options: --submit "--partition=gpu --time=8:00:00"
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks=1
{resources}#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --output={logs}
set -euo pipefail

cd {here}
exec srun --ntasks=1{cpus} {command}
"""


def on_slurm(sweep: Sweep, stages: Stages, options: EngineOptions) -> Ended:
    """Submit all jobs; they are done later.

    Raises:
        InputError: if there is no sbatch here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise InputError("--engine slurm needs sbatch, which is not here: start it on a login node of the cluster")
    before, numbers, file = "", [], write_stages(sweep.folder.absolute(), stages)
    for number, stage in enumerate(stages):
        script = sweep.folder / JOBS / f"{number}_{stage[0].kind}.sbatch"
        write_text(script, script_of(file, number, stage, options))
        # the overview is made also of what failed
        kind = "afterany" if stage[0].kind == "overview" else "afterok"
        waits = [f"--dependency={kind}:{before}", "--kill-on-invalid-dep=yes"] if before else []
        before = _submit(["sbatch", "--parsable", *waits, *shlex.split(options.submit), str(script)])
        numbers.append(before)
    message = (
        f"submitted as {', '.join(numbers)}; the same command again, when they are over, goes on with what is left"
    )
    return Ended(over=False, message=message)


def script_of(file: Path, number: int, stage: Sequence[Job], options: EngineOptions) -> str:
    """The script of a stage, one of those that a file of jobs has, for bash."""
    folder = file.parent.parent
    resources = ""
    if stage[0].kind != "overview" or options.gpus:
        resources += f"#SBATCH --gpus={options.gpus:g}\n" if options.gpus is not None else ""
    resources += f"#SBATCH --cpus-per-task={options.cpus}\n" if options.cpus is not None else ""
    *command, _ = command_of(file, number, 0)
    return SCRIPT.format(
        what={"class_images": "Class images", "train": "Groups of members", "overview": "The overview"}[stage[0].kind],
        name=f"{re.sub(r'[^A-Za-z0-9.-]+', '-', folder.name)}-{stage[0].kind}",
        last=len(stage) - 1,
        resources=resources,
        logs=_quoted(str(file.parent).replace("%", "%%") + "/%x-%A_%a.log"),
        cpus=f" --cpus-per-task={options.cpus}" if options.cpus is not None else "",  # srun >= 22.05 inherits none
        here=shlex.quote(str(Path.cwd())),
        command=f'{shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
    )


def _quoted(pattern: str) -> str:
    """A value of a line of #SBATCH, which may have blanks."""
    return '"' + pattern.replace('"', '\\"') + '"'


def _submit(command: list[str]) -> str:
    """The number of the job that sbatch took."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        why = ended.stderr.strip().rpartition("\n")[2] or f"exit code {ended.returncode}"
        raise InputError(f"sbatch refused {command[-1]}: {why}")
    return ended.stdout.strip().partition(";")[0]
