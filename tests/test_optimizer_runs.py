# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with other optimizers."""

import jax
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup, mapper_of
from dreambooth_jax.trainer import training
from tests.runs import MODEL, assert_same, cut_short, tiny_config, weights

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


def test_every_rate_of_a_group_is_logged_by_the_rule_that_says_it(tmp_path):
    config = tiny_config(
        tmp_path, *SETTINGS, "optimizer.schedule=linear", "text_encoder.start=2", "text_encoder.stop=4"
    )
    here = Target.of(jax.devices()[:1])
    setup = build_train_setup(config, describe_pretrained(MODEL, target=here), mapper_of(config, here))
    run = training.Training(setup=setup, frozen={}, concepts=(), first_step=0, seed=0)
    logged = run.rates_at(("unet", "text_encoder"), 2)
    assert logged.keys() == {
        "learning_rate/unet",
        "learning_rate/unet unet/conv_in/.*",
        "learning_rate/text_encoder",
    }
    rate = config.optimizer.learning_rate
    assert logged["learning_rate/unet"] == pytest.approx(rate / 2), "in the middle of its stretch"
    assert logged["learning_rate/unet unet/conv_in/.*"] == pytest.approx(rate / 4)
    assert logged["learning_rate/text_encoder"] == pytest.approx(rate), "at the beginning of its own"
