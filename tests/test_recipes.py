# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings that ship, on a tiny model: each trains, and its result draws another picture than the model did."""

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.runs import open_model
from tests.runs import MODEL, draw_photos

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

TINY = [
    f"model.path={MODEL}",
    "data.class_noun=dog",
    "data.resolution=16",
    "prior.num_images=2",
    "prior.steps=2",
    "samples.steps=2",
    "samples.num_images=1",
    "train.steps=2",
    "train.batch_size=4",
]


SMALLER = {"sd15_style": ["data.resolution=24", "data.bucket_step=16", "train.batch_size=8"]}


@pytest.mark.parametrize("name", ["sd15_lora", "sd15_hyper", "sd15_style"])
def test_it_trains_and_draws(name, tmp_path):
    places = [f"run_dir={tmp_path / 'run'}", f"data.instance_images={draw_photos(tmp_path / 'photos', 2)}"]
    result = dbx.train(dbx.load_config(name, [*TINY, *SMALLER.get(name, []), *places, "optimizer.learning_rate=0.1"]))
    assert result.finished
    opened, options = open_model(str(result.folder)), {"steps": 2, "height": 16, "width": 16, "output": "float32"}
    drawn = opened.pipe("a photo of sks dog", params=opened.params, **options)
    before = dbx.load_pretrained(MODEL)("a photo of sks dog", **options)
    assert np.abs(drawn - before).max() > 1e-3
