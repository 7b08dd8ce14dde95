# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many members one program trains on a device."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dreambooth_jax import planning
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import Usage
from dreambooth_jax.planning.members_result import GroupStep, MembersPlan
from tests.runs import MODEL, draw_photos

SETTINGS = [
    f"model.path={MODEL}",
    *("data.class_noun=dog", "data.resolution=16", "data.instance_images=x"),
    *("adapter.kind=lora", "adapter.rank=2", "prior.weight=0", "train.batch_size=1", "text_encoder.stop=0"),
    "train.parallel=pmap",
]


def step(members, arguments, temporaries):
    usage = Usage(arguments=arguments, results=0, temporaries=temporaries)
    return GroupStep(members=members, active=("unet",), usage=usage, idle=0, flops=members * 10**12)


def of(capacity, *, wanted=30, devices=1):
    """What is shared takes 1 GB; each member 0.1 of state and 0.4 of activations."""
    steps = [step(each * devices, int(1e9 + each * 1e8), int(each * 4e8)) for each in (1, 2)]
    return MembersPlan(model="", machine="", wanted=wanted, devices=devices, steps=steps, state=1, capacity=capacity)


def test_as_many_as_there_is_room_for():
    assert of(int(8.6e9)).most == 15
    assert of(int(8.49e9)).most == 14
    assert of(int(1.4e9)).most == 0
    assert of(None).most is None
    assert of(int(8.6e9)).peak(15) == int(8.5e9)


@pytest.mark.parametrize(
    ("wanted", "devices", "expected"), [(30, 1, 15), (31, 1, 11), (14, 1, 14), (30, 8, 30), (121, 8, 61)]
)
def test_groups_are_few_and_of_one_size(wanted, devices, expected):
    found = of(int(8.6e9), wanted=wanted, devices=devices)
    assert found.at_once == expected
    groups = -(-wanted // expected)
    assert groups == -(-wanted // (15 * devices))  # no fewer would do
    assert groups * expected - wanted < groups  # none is smaller than the others by more than one


def test_what_does_not_fit_is_said():
    assert "one member needs 1.5 of 1.4 GB" in of(int(1.4e9)).verdict
    assert not of(int(1.4e9)).fits
    larger = of(int(8.6e9))
    assert "15 members fit on each device of 8.6 GB: 30 are 2 groups of at most 15 (--at_once 15)" in larger.verdict
    assert larger.fits
    # what was compiled counts more than the line through two others
    assert not replace(larger, steps=[*larger.steps, step(15, int(2.5e9), int(6.2e9))]).fits


def test_it_survives_json():
    plan = of(int(8.6e9))
    assert MembersPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_method_without_members_is_refused():
    for settings in (["adapter.kind=full"], ["adapter.kind=svdiff"]):
        with pytest.raises(InputError, match="trains one subject at a time"):
            planning.plan_members(load_config(None, [*SETTINGS, *settings]), 3)


@pytest.mark.slow
def test_a_tiny_group_is_compiled(one_device, capsys):
    assert main(["plan", *SETTINGS, "--members", "4", "train.device_memory=4"]) == 0
    said = capsys.readouterr().out
    assert "4 are one group" in said
    rows = [line.split() for line in said.splitlines() if line.endswith("unet") and line.split()[0].isdecimal()]
    assert [int(row[0]) for row in rows] == [1, 2, 4]
    flops = [float(row[3]) for row in rows]
    assert flops[0] == pytest.approx(flops[1], rel=0.02) == pytest.approx(flops[2], rel=0.02)


@pytest.fixture
def asked(monkeypatch):
    """(rank or kind, members) of each plan that is asked for; none is made."""
    found = []

    def plan_members(config, members, *, target):
        found.append((config.adapter.rank, members))
        return of(int(8.6e9) if config.adapter.rank == 2 else 1, wanted=members)

    def plan(config, *, target):
        found.append((config.adapter.kind, 1))
        return SimpleNamespace(fits=True, verdict="")

    monkeypatch.setattr(planning, "plan_members", plan_members)
    monkeypatch.setattr(planning, "plan", plan)
    return found


def test_subjects_and_sweeps_have_a_plan_for_each_program(tmp_path, asked, capsys):
    for name in ("cat", "dog1", "dog2"):
        draw_photos(tmp_path / "photos" / name, 1)
    settings = [*SETTINGS[2:], SETTINGS[0], "data.resolution=16"]
    words = [one for one in settings if not one.startswith(("data.instance_images", "data.class_noun"))]
    subjects = f"data.subjects={tmp_path / 'photos'}"
    assert main(["plan", *words, subjects]) == 0
    assert main(["plan", *words, subjects, "train.seed=0,1", "data.crop=random"]) == 0
    assert asked == [(2, 3), (2, 6)]
    assert "program 0, of 3: cat, dog1, dog2" in capsys.readouterr().out
    assert main(["plan", *words, subjects, "adapter.rank=2,4"]) == 2
    assert asked[2:] == [(2, 3), (4, 3)]
    assert "program 1: one member needs" in capsys.readouterr().err
    full = [one for one in words if not one.startswith("adapter.rank")]
    assert main(["plan", *full, subjects, "adapter.kind=full", "train.seed=0,1"]) == 0
    assert asked[4:] == [("full", 1)], "one plan for all that are trained one by one"
    assert "program 0, of 6: " in capsys.readouterr().out
    assert main(["plan", *words, subjects, "--members", "3"]) == 2


def test_a_text_with_a_comma_is_one_text_to_plan(asked):
    assert main(["plan", *SETTINGS, "data.instance_prompt=a photo of {identifier} {class_noun}, running"]) == 0
    assert asked == [("lora", 1)]


@pytest.mark.parametrize("verb", ["train", "prior"])
def test_a_file_that_lists_a_sweep_belongs_to_sweep(tmp_path, verb, capsys):
    file = tmp_path / "rates.yaml"
    file.write_text("sweep: {train.seed: [0, 1]}\n")
    assert main([verb, str(file)]) == 2
    assert f"{file} lists a sweep, which is many runs: dreambooth-jax sweep {file}" in capsys.readouterr().err


def test_a_file_that_lists_a_sweep_is_planned(tmp_path, asked):
    file = tmp_path / "rates.yaml"
    file.write_text("sweep: {train.seed: [0, 1, 2]}\n")
    assert main(["plan", str(file), *SETTINGS]) == 0
    assert asked == [(2, 3)]
