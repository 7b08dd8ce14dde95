# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with held-out photos."""

import json

import pytest

import dreambooth_jax as dbx
from dreambooth_jax.runs import open_model
from dreambooth_jax.trainer import training
from dreambooth_jax.training.checkpoint import complete_steps, read_meta
from tests.runs import assert_same, killed_at, tiny_config, weights

SETTINGS = (
    *("prior.weight=0", "train.batch_size=8", "train.steps=6", "checkpoint.every=6", "optimizer.learning_rate=1e-2"),
    *("validation.holdout=2", "validation.every=1", "checkpoint.keep_best=true", "checkpoint.keep_last=1"),
)


def validated(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_best_checkpoint_is_kept_and_opened_and_a_killed_run_is_the_same(tmp_path, monkeypatch):
    whole = dbx.train(tiny_config(tmp_path, *SETTINGS, f"run_dir={tmp_path / 'whole'}")).folder
    losses = validated(whole)
    assert [step for step, _ in losses] == [0, 1, 2, 3, 4, 5, 6]
    best = min(losses[1:], key=lambda one: one[1])[0]
    steps = complete_steps(whole / "checkpoints")
    assert steps == sorted({best, 6})
    assert open_model(str(whole), step="best").name.endswith(f"at step {best}")
    assert read_meta(whole / "checkpoints", 6)["validation"] == [list(one) for one in losses]
    with monkeypatch.context() as patch:
        patch.setattr(training, "run_phases", killed_at(3))
        dbx.train(tiny_config(tmp_path, *SETTINGS, f"run_dir={tmp_path / 'two'}"))
    halves = dbx.train(tiny_config(tmp_path, *SETTINGS, f"run_dir={tmp_path / 'two'}")).folder
    assert validated(halves) == losses
    assert_same(weights(halves, 6), weights(whole, 6))
    assert complete_steps(halves / "checkpoints") == steps
