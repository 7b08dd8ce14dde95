# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs of groups on several devices leave what they leave on one: more devices than members, fewer, shared out or not.

Three members with four rows each are on eight devices in four pairs, of which one has nothing to do; two devices have
half of each member's rows; of three devices each has one member.
"""

import jax
import pytest

from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from dreambooth_jax.training.parallel import make_member_mapper
from tests.members.groups import LOOP, LORA, assert_close, assert_identical, draw_pictures, members
from tests.runs import killed_at

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

SETTINGS = [*LORA, "validation.holdout=0"]
SPREAD = {1: (1, 1), 2: (1, 2), 3: (3, 1), 8: (4, 2)}
"""Devices -> (members side by side, devices of each)."""


def test_members_are_spread_as_this_file_says():
    for devices, shape in SPREAD.items():
        mapper = make_member_mapper("auto", Target.of(jax.devices()[:devices]), members=3, rows=4)
        assert tuple(mapper.mesh.shape.values()) == shape


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("devices"))


def run(root, folder, devices, *settings, killed=None):
    """The outcomes of a group on so many devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Target, "here", classmethod(lambda cls: cls.of(jax.devices()[:devices])))
        if killed is not None:
            patch.setattr(LOOP, killed_at(killed))
        return run_group(members(root, folder, [*SETTINGS, *settings]), root / "groups")


@pytest.fixture(scope="module")
def on_one(root):
    assert all(one.result.finished for one in run(root, "one", 1))
    return root / "one"


def configs(root):
    return {member.name: member.config for member in members(root, "any", SETTINGS)}


def test_eight_devices_leave_what_one_does_and_go_on_bit_by_bit(root, on_one):
    assert all(one.result.finished for one in run(root, "eight", 8))
    assert [one.result.step for one in run(root, "killed", 8, killed=3)] == [3, 3, 3]
    assert all(one.result.finished for one in run(root, "killed", 8))
    for name, config in configs(root).items():
        assert_close(root / "eight" / name, on_one / name, config)
        assert_identical(root / "killed" / name, root / "eight" / name)


def test_others_go_on_where_some_have_stopped(root, on_one):
    """On one device, then on two that have parts of what is frozen, then on three."""
    run(root, "moved", 1, killed=1)
    run(root, "moved", 2, "train.parallel=fsdp", killed=2)
    assert all(one.result.finished for one in run(root, "moved", 3, "train.parallel=pmap"))
    for name, config in configs(root).items():
        assert_close(root / "moved" / name, on_one / name, config)
