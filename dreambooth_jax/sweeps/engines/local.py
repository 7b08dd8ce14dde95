# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Here, one job after the other, in this process."""

from dreambooth_jax.locks import InUseError
from dreambooth_jax.sweeps.engines.base import Ended, EngineOptions
from dreambooth_jax.sweeps.jobs import Stages, run_job
from dreambooth_jax.sweeps.sweep import Sweep


def local(sweep: Sweep, stages: Stages, options: EngineOptions) -> Ended:
    """Do all trainings, which make their class images themselves. A signal ends them, and what is done stays done."""
    del options
    failed = []
    for job in (job for stage in stages for job in stage if job.kind == "train"):
        try:
            if ended_by := run_job(sweep, job):
                return Ended(over=False, signal=ended_by)
        except InUseError as error:
            failed.append(str(error))
    return Ended(over=True, failed=failed)
