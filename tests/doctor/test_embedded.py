# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs of the embedded model, made wrong on purpose, each in one way, are told apart; the good one is let be."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from dreambooth_jax.config import load_config, save_config
from dreambooth_jax.prepare.photos import SHIPPED

pytestmark = pytest.mark.slow

RIGHT = {
    "good": [],
    "few_steps": ["too_short"],
    "rate_x_30": ["rate_too_high"],
    "one_photo": ["few_photos"],
    "noun": ["class_noun"],
    "no_prior": ["no_prior"],
}


def cases(photo):
    """The quick start, and what is wrong with it; rows of the batch are one of the subject and one of the class."""
    return {
        "prior": {"num_images": 16},
        "train": {"batch_size": 1},
        "samples": {"every": 0, "steps": 2, "prompts": ["a {identifier} {class_noun}"], "class_prompts": []},
        "checkpoint": {"every": 100_000},
        "sweep": {
            "case": {
                "good": {"train.steps": 350},
                "few_steps": {"train.steps": 35},
                "rate_x_30": {"optimizer.learning_rate": 3e-2},
                "one_photo": {"data.instance_images": str(photo)},
                "noun": {"data.class_noun": "house", "prior.class_prompt": "a {class_noun}"},
                "no_prior": {"prior.weight": 0},
            }
        },
    }


def said(*words):
    """As users run it, with XLA's optimisations."""
    command = [sys.executable, "-m", "dreambooth_jax", *map(str, words)]
    ended = subprocess.run(command, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_each_case_is_named_and_the_good_run_is_let_be(tmp_path):
    """Far too many steps are those of a run that has taken as many as the recipe's and is to take ten times as many."""
    (tmp_path / "photo").mkdir()
    shutil.copy(SHIPPED["embedded"] / "subject_1.png", tmp_path / "photo")
    shutil.copy(SHIPPED["embedded"] / "subject_1.txt", tmp_path / "photo")
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases(tmp_path / "photo")))
    runs = tmp_path / "runs"
    said("sweep", "quickstart", tmp_path / "cases.yaml", f"run_dir={runs}")
    many = shutil.copytree(runs / "members" / "good", runs / "members" / "many_steps") / "config.yaml"
    save_config(many, load_config(many, ["train.steps=3500"]))
    told = json.loads(said("doctor", runs, "steps=15", "json=true", f"out={tmp_path / 'out'}"))
    found = {
        one["name"].removeprefix("runs-").replace("-", "_"): [finding["name"] for finding in one["findings"]]
        for one in told
    }
    assert found.pop("many_steps") == ["too_long"]
    assert found == RIGHT
