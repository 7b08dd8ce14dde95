# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs of groups on several devices leave what they leave on one: more devices than members, fewer, shared out or not.

Three members with four rows each are on eight devices in four pairs, of which one has nothing to do; two devices have
half of each member's rows; of three devices each has one member.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from dreambooth_jax.data.batches import ConceptTables
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.model import describe_model
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup
from dreambooth_jax.train_setup.members import spread_members
from dreambooth_jax.trainer.members import run_group
from dreambooth_jax.training.parallel import make_mapper, make_member_mapper
from tests.members.groups import LOOP, LORA, assert_as_alone, assert_close, assert_identical, draw_pictures, members
from tests.runs import killed_at

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")

SETTINGS = [*LORA, "validation.holdout=0"]
SPREAD = {1: (1, 1), 2: (1, 2), 3: (3, 1), 8: (4, 2)}
"""Devices -> (members side by side, devices of each)."""


def test_members_are_spread_as_this_file_says():
    for devices, shape in SPREAD.items():
        mapper = make_member_mapper("auto", Target.of(jax.devices()[:devices]), members=3, rows=4)
        assert (mapper.across, mapper.sharers) == shape


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


@pytest.mark.slow
def test_eight_devices_leave_what_one_does_and_go_on_bit_by_bit(root, on_one):
    assert all(one.result.finished for one in run(root, "eight", 8))
    assert [one.result.step for one in run(root, "killed", 8, killed=3)] == [3, 3, 3]
    assert all(one.result.finished for one in run(root, "killed", 8))
    for name, config in configs(root).items():
        assert_close(root / "eight" / name, on_one / name, config)
        assert_identical(root / "killed" / name, root / "eight" / name)


@pytest.mark.slow
def test_others_go_on_where_some_have_stopped(root, on_one):
    """On one device, then on two that have parts of what is frozen, then on three."""
    run(root, "moved", 1, killed=1)
    run(root, "moved", 2, "train.parallel=fsdp", killed=2)
    assert all(one.result.finished for one in run(root, "moved", 3, "train.parallel=pmap"))
    for name, config in configs(root).items():
        assert_close(root / "moved" / name, on_one / name, config)


TEACHER = ["prior.kind=teacher", "train.batch_size=3", "train.ema_decay=0", "checkpoint.every=100"]


def test_each_device_has_class_rows_behind_as_many_others():
    """A teacher is shown the second half of what a device has of a member, and that half alone."""
    target = Target.of(jax.devices()[:8])
    (one,) = members(Path(), "any", [*SETTINGS, *TEACHER, "train.batch_size=8"], dog=[])
    config = one.config
    spread = spread_members(config, target, members=4)
    assert (spread.across, spread.sharers) == (4, 2)
    pipe, mapper = describe_model(config, target), make_mapper("auto", target)
    setup = build_train_setup(config, pipe, mapper, sharers=spread.sharers)
    picture, text = np.zeros((1, 1, 2, 2, 4), np.float32), {"condition/states": np.zeros((1, 1, 3), np.float32)}
    table = ExampleTable(mean=picture, logvar=picture, text=text, text_index=np.zeros(1, np.int64))
    concept = ConceptTables(name="", instance=[table], prior=None, prior_weight=1.0, lessons=[table])
    is_prior = setup.batches.of([concept]).batch_at(0)["is_prior"]
    assert setup.objective.halves
    for rows in np.split(is_prior, spread.sharers):
        assert rows.tolist() == [False] * 4 + [True] * 4


@pytest.mark.slow
def test_a_teacher_says_what_it_says_alone_on_several_devices_too(root, monkeypatch):
    for folder, devices in (("taught", 1), ("taught-by-three", 3)):
        assert all(one.result.finished for one in run(root, folder, devices, *TEACHER))
    for name, config in configs(root).items():
        assert_close(root / "taught-by-three" / name, root / "taught" / name, config)
    monkeypatch.setattr(Target, "here", classmethod(lambda cls: cls.of(jax.devices()[:1])))
    (alone,) = members(root, "taught-alone", [*SETTINGS, *TEACHER], cat=[])
    assert_as_alone(root / "taught" / "cat", alone.config)


SPLIT = [(2, 0, 8, 2), (2, 0, 1, 8), (1, 2, 3, 4), (1, 4, 2, 2), (2, 2, 5, 6), (1, 0, 3, 4)]
"""(hosts, train.fsdp_devices, members, rows of each)"""


def test_what_is_frozen_is_gathered_within_a_host_or_as_few_devices_as_are_said():
    """Each host, or group of ``train.fsdp_devices``, has all of it; a device has its share."""
    leaf = jax.ShapeDtypeStruct((1024, 1024), np.float32)
    for hosts, said, count, rows in SPLIT:
        target = Target.of(jax.devices()[:8], hosts=hosts)
        spread = make_member_mapper("fsdp", target, members=count, rows=rows, fsdp_devices=said)
        group = said or 8 // hosts
        (placed,) = jax.tree.leaves(spread.shapes([leaf]))
        places = placed.sharding.devices_indices_map(leaf.shape)
        for first in range(0, 8, group):
            parts = {str(places[device]) for device in target.devices[first : first + group]}
            assert len(parts) == group, "all of it lies there, each part once"
        assert len({str(part) for part in places.values()}) == group
        assert spread.across * spread.sharers == 8
    with pytest.raises(InputError, match="train.fsdp_devices 3 does not divide the 8 devices"):
        make_member_mapper("fsdp", target, members=3, rows=4, fsdp_devices=3)


def test_micro_batches_of_members_have_one_size():
    (one,) = members(Path(), "any", [*SETTINGS, "train.accumulation=3"], dog=[])
    with pytest.raises(InputError, match="train.accumulation 3 do not divide: use train.batch_size 3"):
        spread_members(one.config, Target.of(jax.devices()[:8]), members=2)
