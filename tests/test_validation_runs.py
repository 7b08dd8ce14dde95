# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with held-out photos."""

import json

import jax
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from dreambooth_jax.trainer import training, validating
from dreambooth_jax.training.checkpoint import complete_steps, read_meta
from dreambooth_jax.training.parallel import drawing
from dreambooth_jax.training.parallel.sharding import map_rows
from dreambooth_jax.trees import nbytes
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


@pytest.mark.slow
def test_devices_in_parts_say_what_one_says(tmp_path, monkeypatch):
    """Under fsdp, where a whole copy takes too much of a device, a validation has none either."""
    settings = [*SETTINGS, "train.steps=2", "checkpoint.keep_best=false"]
    with monkeypatch.context() as patch:
        patch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:1])))
        alone = dbx.train(tiny_config(tmp_path, *settings, f"run_dir={tmp_path / 'alone'}")).folder
    monkeypatch.setattr(drawing, "stays_in_parts", lambda params, target: True)
    seen = []
    monkeypatch.setattr(validating, "map_rows", lambda *given: seen.append(given[3]) or map_rows(*given))
    shared = dbx.train(tiny_config(tmp_path, *settings, "train.parallel=fsdp", f"run_dir={tmp_path / 'shared'}")).folder
    assert len(seen) == 3
    assert all(bytes_per_device(params) < nbytes(params) / 3 for params in seen)
    losses = dict(validated(alone))
    assert validated(shared) == [(step, pytest.approx(losses[step], rel=1e-4)) for step in (0, 1, 2)]
