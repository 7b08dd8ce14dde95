# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What an engine is: it does the jobs of a sweep, stage by stage, or has them done."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from dreambooth_jax.sweeps.jobs import Stages
from dreambooth_jax.sweeps.sweep import Sweep

GPUS = "DREAMBOOTH_JAX_JOB_GPUS"
"""Variable of the environment that says how many GPUs a job is given; below 1 it shares one with others."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What engines that are no process of ours can be told.

    Attributes:
        gpus: of each job; None leaves it to the engine.
        cpus: of each job; None leaves it to the engine.
        retries: how often a job is tried anew that its machine took down.
        submit: more options for the program that takes jobs.
    """

    gpus: float | int | None = None
    cpus: int | None = None
    retries: int = 3
    submit: str = ""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of the jobs.

    Attributes:
        over: is all done that can be? Otherwise the jobs wait, or go on, elsewhere.
        signal: that ended them early, if one did.
        message: what to say.
        failed: of each job that came to nothing, why.
    """

    over: bool
    signal: Signals | None = None
    message: str = ""
    failed: Sequence[str] = ()


Engine = Callable[[Sweep, Stages, EngineOptions], Ended]


def command_of(file: Path, stage: int | str, number: int | str) -> list[str]:
    """A job of a file of :func:`~dreambooth_jax.sweeps.jobs.write_stages` as a command of this Python."""
    return [sys.executable, "-m", "dreambooth_jax.cli.job", str(file.absolute()), str(stage), str(number)]
