# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How the processes of one run find each other: no settings of the run, which is the same on any number of hosts."""

import logging
from collections.abc import Mapping
from typing import Any

from dreambooth_jax.cli.verb import Option

PROCESSES: dict[str, Option] = {
    "coordinator": Option(str, "HOST:PORT of process 0, for all; none on TPU pods and SLURM."),
    "num_processes": Option(int, "How many processes run together."),
    "process_id": Option(int, "Which of them this is, from 0."),
}


def join_processes(options: Mapping[str, Any]) -> None:
    """Find the other processes, if there are any; all but process 0 then only warn, and say who they are."""
    import jax

    from dreambooth_jax import distributed

    distributed.start(**options)
    if not distributed.is_main():
        logging.getLogger("dreambooth_jax").setLevel(logging.WARNING)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"process {jax.process_index()}: %(message)s"))
