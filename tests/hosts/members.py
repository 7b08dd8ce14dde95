# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One of several processes that train members in every way that they can be: steps in float64, and whole runs.

python -m tests.hosts.members FOLDER --coordinator ... --num_processes ... --process_id ...
"""

import jax
import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.trainer.members import run_group
from tests.hosts.processes import join
from tests.members.groups import PIVOTAL, members
from tests.training.member_cases import METHODS, case_of

COUNTS = (1, 2, 5)
"""S: fewer than processes, as many, and a number that leaves places vacant."""
BOTH = [*PIVOTAL, "adapter.dora=output"]
"""A whole run with DoRA and new words; those of LoRA are in ``test_groups.py``."""
OWN = {
    name: [f"data.identifier=<{name}>", "prior.weight=0", "validation.holdout=0", "train.steps=3"]
    for name in ("dog", "cat")
}


def take_steps(folder):
    """Of each way and each S, what members have come to and said."""
    with jax.enable_x64(True):
        for name in METHODS:
            for count in COUNTS:
                state, metrics = case_of(name).together(list(range(count)), devices=jax.device_count())
                if distributed.is_main():
                    np.savez(folder / f"{name}-{count}.npz", *jax.tree.leaves((state, metrics)))


def run(folder, part):
    """A whole run of two members. Returns them."""
    found = members(folder, part, BOTH, **OWN)
    assert all(one.result.finished for one in run_group(found, folder / "groups"))
    return found


def main():
    folder = join()
    take_steps(folder)
    run(folder, "two")
    distributed.barrier("end")


if __name__ == "__main__":
    main()
