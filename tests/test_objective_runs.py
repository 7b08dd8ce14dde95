# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with other objectives."""

import json

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.runs import open_model
from tests.runs import MODEL, tiny_config

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


def test_epsilon_with_rescaled_noise_is_refused_before_a_picture_is_made(tmp_path):
    with pytest.raises(InputError, match="objective.zero_terminal_snr needs a model that predicts v"):
        dbx.train(tiny_config(tmp_path, "objective.zero_terminal_snr=true"))
    assert not (tmp_path / "class").exists()
