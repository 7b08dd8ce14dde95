# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The command line, in which process 1 gets a SIGTERM when two steps are taken, and no other does.

python -m tests.hosts.killed train KEY=VALUE ... --coordinator ... --num_processes ... --process_id ...
"""

import sys

from dreambooth_jax.cli import main
from dreambooth_jax.trainer import training
from dreambooth_jax.trainer.members import run
from tests.runs import killed_at

if __name__ == "__main__":
    training.run_phases = run.run_phases = killed_at(2, process=1)
    sys.exit(main())
