# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""kill -9 at ten moments of a group: the same call goes on, and nothing of it is to be seen in any member's folder."""

import multiprocessing
import signal

import pytest

from tests.drills import worker
from tests.members.groups import LORA, OWN, assert_identical, draw_pictures

pytestmark = pytest.mark.slow  # a dozen processes

SETTINGS = [
    *(*LORA, "adapter.targets=.*/mid_block/.*/to_q", "validation.holdout=0"),
    *("checkpoint.every=1", "samples.every=3", "samples.steps=1", "samples.num_images=1"),
]
KILLS = 10


@pytest.fixture(scope="module")
def processes():
    """Forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.drills.worker"])
    return context


def run(processes, root, folder, kill_at=None):
    """(exit code, answer of one that was not killed)"""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=worker.train_group, args=(root, folder, SETTINGS, kill_at, sender))
    process.start()
    sender.close()
    process.join(300)
    return process.exitcode, receiver.recv() if process.exitcode == 0 else None


def test_killed_again_and_again_the_members_come_to_the_same_end(processes, tmp_path):
    """Each time a tenth further on its way, as far as that can be told from one that nobody killed."""
    root = draw_pictures(tmp_path)
    code, (finished, moments) = run(processes, root, root / "whole")
    assert (code, finished) == (0, True)
    codes, left = [], moments
    for kill in range(KILLS):
        share = max(2, left // (KILLS + 1 - kill))
        codes.append(run(processes, root, root / "killed", kill_at=share)[0])
        left -= share
    assert codes == [-signal.SIGKILL] * KILLS
    code, (finished, _) = run(processes, root, root / "killed")
    assert (code, finished) == (0, True)
    for name in OWN:
        assert_identical(root / "killed" / name, root / "whole" / name)
    assert not [*(root / "killed" / "groups").glob("*")]
