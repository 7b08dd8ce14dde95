# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Groups that are larger than the devices' memory are trained in parts, and each member is what it is in any group."""

import jax
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.planning.members import peak_of
from dreambooth_jax.planning.result import GB
from dreambooth_jax.prepare.model import describe_model
from dreambooth_jax.target import Target
from dreambooth_jax.trainer.members import run_group
from dreambooth_jax.training.parallel import make_mapper
from tests.members.groups import LOOP, LORA, assert_close, draw_pictures, members
from tests.runs import killed_at

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
SETTINGS = [*LORA, "adapter.targets=.*/mid_block/.*/to_q", "validation.holdout=0", "checkpoint.every=100"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("fitting"))


@pytest.fixture(scope="module")
def room_for(root):
    """Settings with which so many members fit, and one more does not."""
    target = Target.of(jax.devices()[:1])
    configs = [one.config for one in members(root, "any", SETTINGS)]
    pipe, mapper = describe_model(configs[0], target), make_mapper("auto", target)
    peaks = [peak_of(configs[:count], pipe, mapper) for count in (1, 2, 3)]
    assert peaks[0] < peaks[1] < peaks[2]

    def room(count):
        return [*SETTINGS, f"train.device_memory={(peaks[count - 1] + 1000) / GB}"]

    return room


@pytest.fixture(scope="module")
def together(root, one_device):
    assert all(one.result.finished for one in run_group(members(root, "together", SETTINGS), root / "groups"))
    return root / "together"


def assert_all_close(root, folder, other):
    for member in members(root, "any", SETTINGS):
        assert_close(root / folder / member.name, other / member.name, member.config)
    assert not [*(root / "groups").glob("*")], "all is in the members' own folders"


def test_as_many_as_fit_are_trained_at_once_and_go_on_so(root, together, room_for, monkeypatch, caplog):
    caplog.set_level("INFO")
    group = members(root, "parts", room_for(2))
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(3))
        assert [one.result.step for one in run_group(group, root / "groups")] == [3, 3, 0]
    assert "2 members take their steps at once (a step of 2 needs " in caplog.text
    assert "3 are 2 groups" in caplog.text
    said = [line for line in caplog.text.splitlines() if "take their steps together" in line]
    assert [line.rpartition(": ")[2] for line in said] == ["dog, cat"]
    outcomes = run_group(group, root / "groups")
    assert all(one.result.finished and not one.stopped for one in outcomes)
    assert_all_close(root, "parts", together)


def test_a_group_that_has_begun_goes_on_in_parts_where_there_is_less_room(root, together, room_for, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(2))
        assert [one.result.step for one in run_group(members(root, "moved", SETTINGS), root / "groups")] == [2, 2, 2]
    smaller = members(root, "moved", room_for(1))
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(3))
        assert [one.result.step for one in run_group(smaller, root / "groups")] == [3, 2, 2]
    assert all(one.result.finished for one in run_group(smaller, root / "groups"))
    assert_all_close(root, "moved", together)


def test_who_is_not_asked_for_goes_on_later_from_where_it_was(root, together, monkeypatch):
    group = members(root, "some", SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, killed_at(3))
        run_group(group, root / "groups")
    first = run_group(group[1:], root / "groups")
    assert all(one.result.finished for one in first)
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, noted(steps))
        (last,) = run_group(group[:1], root / "groups")
    assert last.result.finished
    assert steps == [3], "it has not begun anew"
    assert_all_close(root, "some", together)


def noted(steps):
    """A ``run_phases`` that says where it begins."""
    from dreambooth_jax.training import loop

    def run_phases(state, *, first_step, **options):
        steps.append(first_step)
        return loop.run_phases(state, first_step=first_step, **options)

    return run_phases


def test_where_not_even_one_fits_it_is_said_what_would(root, room_for):
    settings = [*SETTINGS, "train.device_memory=0.0008"]
    with pytest.raises(InputError, match=r"this run does not fit: a step needs .*there are 0.0008.*Try "):
        run_group(members(root, "none", settings), root / "groups")


def test_memory_that_runs_out_on_the_way_is_one_line_with_the_way_out(root, together, monkeypatch, caplog):
    def run_phases(state, *, hooks, **options):
        def hook(step, state):
            if step == 3:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes")

        return loop(state, hooks=[*hooks, hook], **options)

    from dreambooth_jax.training.loop import run_phases as loop

    group = members(root, "exhausted", [*SETTINGS, "checkpoint.every=2"])
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, run_phases)
        outcomes = run_group(group, root / "groups")
    for one in outcomes:
        assert one.stopped == "3 members at once ran out of the devices' memory: try --at_once 1, or train.remat=blocks"
        assert (one.result.step, one.result.finished) == (2, False)
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(LOOP, noted(steps))
        (first,) = run_group(group[:1], root / "groups")
    assert first.result.finished
    assert steps == [2], "what they had come to is kept"
    assert_close(root / "exhausted" / "dog", together / "dog", group[0].config)
