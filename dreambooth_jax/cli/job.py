# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``python -m dreambooth_jax.cli.job FILE STAGE NUMBER``: one job of a sweep, in this process.

Engines start it where the work is to be done. Exit codes are those of the command line.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.cli.messages import plain_messages
from dreambooth_jax.errors import InputError
from dreambooth_jax.platforms import leave_out_absent

MEMORY = 0.9
"""Share of a GPU's memory that a job takes which has it for itself."""
WATCHED = 1.0
"""Seconds between two looks at who started this process."""


def end_with_parent() -> None:
    """Save and end, as after SIGTERM, when the process is gone that started this one: a job that nobody waits for any
    more would keep others out of its folders."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def memory_share(gpus: str | None) -> str:
    """What XLA may take of each GPU's memory: of one that several jobs share, a job's part.

    Args:
        gpus: how many the job was given, if that was said.
    """
    count = float(gpus or 1)
    return f"{MEMORY * (count if 0 < count < 1 else 1):g}"


def main(arguments: Sequence[str]) -> int:
    """Do it. Returns the exit code."""
    end_with_parent()
    plain_messages()
    leave_out_absent()
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.sweeps.engines.base import GPUS
    from dreambooth_jax.sweeps.jobs import read_job, run_job
    from dreambooth_jax.sweeps.sweep import read_sweep

    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", memory_share(os.environ.get(GPUS)))
    keep_compiled()
    file, (stage, number) = Path(arguments[0]), map(int, arguments[1:])
    try:
        ended_by = run_job(read_sweep(file.parent.parent), read_job(file, stage, number))
    except InputError as error:
        print(f"dreambooth-jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 128 + ended_by if ended_by else 0  # as a shell has it; unlike a run, a job that is not done is no success


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
