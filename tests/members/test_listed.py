# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sweeps in files, and those that ship."""

from pathlib import Path

import pytest

from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.sweep import SWEEP, planned
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import groups
from dreambooth_jax.members.listed import listed_axes

EXPERIMENTS = Path(__file__).parents[2] / "configs" / "experiments"


def members(*words: str):
    call = read_call(SWEEP, [*map(str, words), "data.instance_images=photos"])
    return planned(call, call.taken, within="members")


def test_rates_and_steps():
    sweep, found = members("sd14", EXPERIMENTS / "rates_and_steps.yaml")
    assert {(one.config.optimizer.learning_rate, one.config.train.steps) for one in found} == {
        (rate, steps) for rate in (1e-6, 3e-6) for steps in (600, 900)
    }
    assert sweep.grid == "steps=30,50 guidance_scale=6,12"
    assert sweep.folder == Path("runs/rates_and_steps")
    assert len(groups(found)) == 4  # a copy of the weights each


def test_experiments_on_class_prompts():
    _, found = members("sd15", EXPERIMENTS / "class_prompts.yaml")
    assert len(found) == 8
    assert found[0].name == "1-late-text-encoder-breed-and-breed"
    assert [one.config.text_encoder.stop for one in found] == [1800] * 3 + [0] * 5
    assert found[7].config.model.path == "stabilityai/stable-diffusion-2"
    # of one prompt and model, class images are one folder
    assert found[0].config.prior.class_images == found[1].config.prior.class_images
    assert len({one.config.prior.class_images for one in found}) == 4


@pytest.mark.parametrize(("name", "count"), [("rates_and_steps_embedded", 4 * 2), ("class_prompts_embedded", 6 * 2)])
def test_those_of_the_embedded_model(name, count):
    _, found = members("quickstart", EXPERIMENTS / f"{name}.yaml")
    assert len(found) == count
    assert {one.config.model.path for one in found} == {"embedded"}


def test_the_command_line_wins_over_files(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "train: {steps: 5, seed: 4}\noptimizer: {schedule: polynomial}\n"
        "sweep: {train.seed: [0, 1], optimizer.power: [1, 2]}\n"
    )
    _, found = members("sd15_lora", tmp_path / "s.yaml", "data.class_noun=dog", "train.seed=7,8,9", "train.steps=6")
    assert sorted({(one.config.train.seed, one.config.optimizer.power) for one in found}) == [
        (seed, power) for seed in (7, 8, 9) for power in (1, 2)
    ]
    assert {one.config.train.steps for one in found} == {6}
    _, found = members("sd15_lora", tmp_path / "s.yaml", "data.class_noun=dog", "train.seed=3")
    assert {one.config.train.seed for one in found} == {3}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([1], "under sweep stands what is varied"),
        ({"train.seed": 3}, "sweep.train.seed is no list of values"),
        ({"train.seed": []}, "sweep.train.seed is no list of values"),
        ({"train.sead": [1, 2]}, "unknown key train.sead; did you mean train.seed?"),
        ({"train.seed": {"a": {"x": 1}}}, "sweep.train.seed is a setting"),
        ({"run_dir": ["a", "b"]}, "run_dir has 2 values"),
        ({"train.seed": [1, 1]}, "train.seed has 1 twice"),
    ],
)
def test_what_is_no_sweep_is_said_in_one_line(listed, message):
    with pytest.raises(InputError) as error:
        listed_axes(listed, name="s.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
