# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Members of every way to train, over two processes with two devices each: each is what it is alone."""

import jax
import numpy as np
import pytest

from dreambooth_jax.target import Target
from tests.hosts import members, processes
from tests.members import groups
from tests.training.member_cases import METHODS, assert_as_alone, case_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both processes did, in one launch."""
    folder = groups.draw_pictures(tmp_path_factory.mktemp("hosts"))
    processes.run(["-m", "tests.hosts.members", str(folder)], timeout=900)
    return folder


@pytest.mark.parametrize("count", members.COUNTS)
@pytest.mark.parametrize("name", METHODS)
def test_a_member_is_what_it_is_alone(folder, name, count):
    with jax.enable_x64(True), np.load(folder / f"{name}-{count}.npz") as stored:
        like = case_of(name).told(count)
        found = jax.tree.unflatten(jax.tree.structure(like), [stored[f"arr_{i}"] for i in range(len(stored.files))])
        assert_as_alone(name, list(range(count)), *found)


def test_a_whole_run_leaves_what_one_process_leaves(folder, monkeypatch):
    monkeypatch.setattr(Target, "here", classmethod(lambda cls: cls.of(jax.devices()[:4])))
    for member in members.run(folder, "one"):
        groups.assert_close(folder / "two" / member.name, folder / "one" / member.name, member.config)
