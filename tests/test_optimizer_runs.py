# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with other optimizers."""

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.errors import InputError
from dreambooth_jax.runs import open_model
from tests.runs import assert_same, cut_short, tiny_config, weights

SETTINGS = (
    "train.steps=4",
    "checkpoint.every=2",
    "prior.weight=0",
    "train.batch_size=2",
    "optimizer.rules=unet/conv_in/.* rate=0.5",
)


def unet_of(params):
    return {f"unet/{name}": np.asarray(leaf) for name, leaf in trees.flatten(params["unet"]).items()}


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_schedule_free_run_draws_with_its_average_and_is_resumed_bit_for_bit(tmp_path):
    settings = (*SETTINGS, "optimizer.kind=schedule_free_adamw")
    whole = dbx.train(tiny_config(tmp_path, *settings, f"run_dir={tmp_path / 'whole'}")).folder
    average, points = weights(whole, 4, ema=True), weights(whole, 4)
    assert any(np.abs(average[name] - points[name]).max() > 1e-6 for name in average)
    assert_same(unet_of(open_model(str(whole)).params), average)
    assert_same(unet_of(open_model(str(whole), ema=False).params), points)
    assert_same(unet_of(dbx.load_pretrained(whole / "model").params), average)
    halves = cut_short(whole, 2, tmp_path / "two")
    dbx.train(tiny_config(tmp_path, *settings, f"run_dir={halves}"))
    assert_same(weights(halves, 4, ema=True), average)
    assert_same(weights(halves, 4), points)


def test_a_rule_that_matches_nothing_is_refused_with_a_name_that_there_is(tmp_path):
    with pytest.raises(InputError, match=r"optimizer.rules: vae/\.\* match nothing that is trained"):
        dbx.train(tiny_config(tmp_path, "optimizer.rules=vae/.* rate=2"))
