# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with other objectives."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.runs import open_model
from tests.runs import MODEL, assert_same, tiny_config, weights

V_MODEL = MODEL.parent / "legacy_flax_sd21"


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_run_with_rescaled_noise_draws_and_exports_with_it(tmp_path):
    settings = (
        *("objective.zero_terminal_snr=true", "objective.weighting=min_snr", "objective.loss=huber"),
        *("objective.timesteps=logit_normal", "objective.noise_offset=0.05", "objective.input_perturbation=0.1"),
        *("train.steps=2", "prior.num_images=4", f"model.path={V_MODEL}", "prior.weight=0.5"),
    )
    run = dbx.train(tiny_config(tmp_path, *settings))
    scheduler = json.loads((run.model / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["rescale_betas_zero_snr"] is True
    assert scheduler["timestep_spacing"] == "trailing"
    opened = open_model(str(run.folder))
    assert opened.pipe.schedule.alphas_cumprod[-1] == 0
    again = dbx.load_pretrained(run.model)
    np.testing.assert_array_equal(again.schedule.alphas_cumprod, opened.pipe.schedule.alphas_cumprod)
    losses = [json.loads(line)["loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_twice_the_weight_is_half_the_rate_and_none_is_none(tmp_path):
    """Of plain gradient descent, where twice and half are exact; and what weighs nothing may show anything."""
    settings = ("optimizer.kind=sgd", "optimizer.clip_norm=null", "optimizer.weight_decay=0", "train.steps=2")
    config = tiny_config(tmp_path, "prior.num_images=2")
    rows = [{"file_name": f"{i}.png", "weight": 2 if i else 0} for i in range(5)]
    found = {}
    for name, own in {
        "halved": (rows, "optimizer.learning_rate=5e-3", "prior.weight=2"),
        "plain": ([{**row, "weight": row["weight"] // 2} for row in rows], "optimizer.learning_rate=1e-2"),
        "spoilt": (rows, "optimizer.learning_rate=5e-3", "prior.weight=2"),
    }.items():
        table, *own_settings = own
        photos = Path(config.data.instance_images)
        (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, table)))
        if name == "spoilt":
            Image.new("RGB", (60, 50), "black").save(photos / "0.png")
        run = (f"run_dir={tmp_path / name}", "prior.num_images=2", *settings, *own_settings)
        dbx.train(tiny_config(tmp_path, *run))
        found[name] = weights(tmp_path / name, 2)
    assert_same(found["halved"], found["plain"])
    assert_same(found["halved"], found["spoilt"])


def test_epsilon_with_rescaled_noise_is_refused_before_a_picture_is_made(tmp_path):
    with pytest.raises(InputError, match="objective.zero_terminal_snr needs a model that predicts v"):
        dbx.train(tiny_config(tmp_path, "objective.zero_terminal_snr=true"))
    assert not (tmp_path / "class").exists()
