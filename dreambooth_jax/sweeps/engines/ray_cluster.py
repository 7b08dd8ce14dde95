# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""On a Ray cluster (extra ``ray``), or on this machine where there is none: each job is a task.

A job is a process of its own, with the GPUs that Ray gives it and none of another job's memory. One that its machine
takes down, or that ends in an error of ours, is tried anew and goes on from its last checkpoint. All machines must see
the sweep's folder, the photos and the model at the same places.
"""

import importlib.util
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.sweeps.engines.base import GPUS, Ended, EngineOptions, command_of
from dreambooth_jax.sweeps.jobs import Stages, write_stages
from dreambooth_jax.sweeps.sweep import Sweep

log = logging.getLogger(__name__)

WRONG_INPUT = 2
"""Exit code; trying again would not help."""


def on_ray(sweep: Sweep, stages: Stages, options: EngineOptions) -> Ended:
    """Have all jobs done, and wait for them. One that goes on failing takes none of the others down.

    Raises:
        InputError: if Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray needs the extra ray: pip install 'dreambooth_jax[ray]'")
    import ray

    began = not ray.is_initialized()
    if began:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=True, include_dashboard=False)
    resources: dict[str, Any] = {"max_retries": options.retries, "retry_exceptions": True}
    resources |= {"num_gpus": options.gpus} if options.gpus is not None else {}
    resources |= {"num_cpus": options.cpus} if options.cpus is not None else {}
    task = ray.remote(**resources)(_do)
    here, file = str(Path.cwd()), write_stages(sweep.folder.absolute(), stages)
    given = {GPUS: str(options.gpus)} if options.gpus is not None else {}
    failed: list[str] = []
    try:
        for number, stage in enumerate(stages):
            waiting = [task.remote(command_of(file, number, job), here, given) for job in range(len(stage))]
            for one in waiting:
                try:
                    code, said = ray.get(one)
                    failed += [said] if code == WRONG_INPUT else []
                except (RuntimeError, ray.exceptions.RayError) as error:
                    failed.append(str(error).strip().rpartition("\n")[2])
    finally:
        if began:
            ray.shutdown()
    return Ended(over=True, failed=failed)


def _do(command: list[str], folder: str, given: dict[str, str]) -> tuple[int, str]:
    """(exit code, last line of what was said) of a job, on some machine of the cluster.

    Args:
        command: the job.
        folder: to do it in.
        given: to its environment.

    Raises:
        RuntimeError: if it failed otherwise than by wrong input, so that Ray tries it anew.
    """
    ended = subprocess.run(command, cwd=folder, env=os.environ | given, check=False, stderr=subprocess.PIPE, text=True)
    print(ended.stderr)
    last = ended.stderr.strip().rpartition("\n")[2].removeprefix("dreambooth-jax: ")
    if ended.returncode not in (0, WRONG_INPUT):
        raise RuntimeError(f"exit code {ended.returncode}: {last}")
    return ended.returncode, last
