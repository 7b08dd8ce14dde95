# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""docs/experiments.md: from what a sweep leaves to a section."""

import json

import experiments
import numpy as np
import pytest
from PIL import Image

NAMES = [file.stem.removesuffix("_embedded") for file in experiments.CONFIGS.glob("*_embedded.yaml")]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_a_section_and_a_picture_that_is_not_large(name):
    docs = experiments.ROOT / "docs"
    file = experiments.CONFIGS / f"{name}_embedded.yaml"
    assert experiments.base_of(file) == ["quickstart"]
    text = (docs / "experiments.md").read_text()
    assert "\n".join(["", *experiments.commands_of(file), ""]) in text
    assert experiments.asked(file) in text
    assert f"(experiments/{name}.png)" in text
    assert 10_000 < (docs / "experiments" / f"{name}.png").stat().st_size <= experiments.LARGEST


@pytest.mark.parametrize(
    ("difference", "half_width", "said"),
    [(-0.5, 0.4, "**lower**"), (0.5, 0.4, "**higher**"), (0.4, 0.5, "open"), (None, None, ""), (0.5, None, "")],
)
def test_a_difference_is_said_where_its_interval_has_no_zero(difference, half_width, said):
    assert experiments.verdict(difference, half_width) == said


def test_a_section_has_effects_but_of_seeds(tmp_path):
    effect = {"count": 2, "mean": 0.41, "half_width": 0.02, "blocks": 0, "difference": None}
    effect |= {"difference_half_width": None}
    other = effect | {"difference": -0.3, "difference_half_width": 0.1, "blocks": 2}
    effects = {"train.steps": {"100": effect, "200": other, "300": None}, "train.seed": {"0": effect, "1": other}}
    said = {"compared_by": "validation_loss", "effects": effects}
    (tmp_path / "overview.json").write_text(json.dumps(said))
    text = experiments.section("rates_and_steps", tmp_path)
    assert "| train.steps | 200 | 0.410 ± 0.020 | -0.30 ± 0.10 | **lower** |" in text
    assert "300" not in text.split("```")[2]
    assert "train.seed" not in text


def test_a_picture_is_made_small_enough(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    experiments.save_small(tmp_path / "large.png", tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size <= experiments.LARGEST
    plain = Image.new("RGB", (60, 40), "red")
    plain.save(tmp_path / "plain.png")
    experiments.save_small(tmp_path / "plain.png", tmp_path / "plain_small.png")
    assert Image.open(tmp_path / "plain_small.png").convert("RGB").tobytes() == plain.tobytes()
