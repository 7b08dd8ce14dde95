# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings that ship, on a tiny model: each trains, and its result draws another picture than the model did."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

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


@pytest.mark.usefixtures("one_device")
def test_a_place_with_what_does_not_belong_there_under_masks(tmp_path):
    """The README's recipe. What is all under a mask of weight 0 is a picture of weight 0, bit for bit."""
    photos, found = draw_photos(tmp_path / "photos", 2), {}
    place = ["data.class_noun=kitchen", "data.instance_prompt=a photo of the {identifier} {class_noun}"]
    place += ["data.masks=files", "data.unmasked_weight=0", "data.buckets=1"]
    for name, mask, weight in (("masked", "black", 1), ("weightless", "white", 0)):
        Image.new("L", Image.open(photos / "0.png").size, mask).save(photos / "0-mask.png")
        (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "weight": weight}))
        places = [f"run_dir={tmp_path / name}", f"data.instance_images={photos}", "samples.every=0"]
        dbx.train(dbx.load_config("sd15_style", [*TINY, *place, *places]))
        found[name] = load_file(tmp_path / name / "lora.safetensors")
    assert found["masked"].keys() == found["weightless"].keys()
    for key, array in found["masked"].items():
        np.testing.assert_array_equal(array, found["weightless"][key], err_msg=key)
