# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs with LoRA through the command line: train, be killed, resume, sample."""

import jax
import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.cli import main
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from tests.runs import MODEL, assert_same, draw_photos, killed_at, weights

pytestmark = [pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]

SETTINGS = [
    f"model.path={MODEL}",
    *("data.class_noun=dog", "data.resolution=16", "prior.weight=0", "samples.every=0"),
    *("adapter.kind=lora", "adapter.rank=2", "optimizer.learning_rate=1e-2", "text_encoder.stop=-1"),
    *("train.steps=4", "checkpoint.every=2", "checkpoint.keep_last=9"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


def train(folder, photos, *settings):
    return main(["train", f"run_dir={folder}", f"data.instance_images={photos}", *SETTINGS, *settings])


def on_devices(patch, count):
    patch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:count])))


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "count"), [("auto", 1), ("pmap", 2), ("fsdp", 2)])
def test_a_run_trains_little_and_goes_on_bit_for_bit(tmp_path, photos, monkeypatch, parallel, count):
    on_devices(monkeypatch, count)
    monkeypatch.setattr("dreambooth_jax.training.parallel.sharded.SHARDING_THRESHOLD", 64)
    settings = [f"train.parallel={parallel}", f"train.batch_size={count}"]
    assert train(tmp_path / "whole", photos, *settings) == 0
    with monkeypatch.context() as patch:
        patch.setattr("dreambooth_jax.trainer.training.run_phases", killed_at(2))
        train(tmp_path / "killed", photos, *settings)
    assert not (tmp_path / "killed" / "checkpoints" / "4").exists()
    assert train(tmp_path / "killed", photos, *settings) == 0
    trained = weights(tmp_path / "whole", 4)
    assert_same(trained, weights(tmp_path / "killed", 4))
    assert {name.split("/")[0] for name in trained} == {"unet", "text_encoder"}
    assert {name.split("/")[-1] for name in trained} == {"lora_down", "lora_up"}
    before = weights(tmp_path / "whole", 2)
    for name, leaf in trained.items():
        moved = bool((leaf != before[name]).any())
        assert moved, name
    _what_it_draws_is_the_adapted_model(tmp_path / "whole")


def _what_it_draws_is_the_adapted_model(folder):
    trained, original = trees.unflatten(weights(folder, 4)), trees.flatten(dbx.load_pretrained(MODEL).params)
    for name, leaf in trees.flatten(open_model(str(folder)).params).items():
        tensors = trained.get(name.split("/")[0], {})
        for part in name.split("/")[1:-1]:
            tensors = tensors.get(part, {})
        expected = np.asarray(original[name])
        if name.endswith("/kernel") and "lora_up" in tensors:
            product = tensors["lora_down"] @ tensors["lora_up"].reshape(2, -1)
            expected = expected + np.asarray(product).reshape(expected.shape)
            assert np.abs(expected - original[name]).max() > 1e-5
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    picture = folder.parent / "picture.png"
    options = ["steps=2", "height=16", "width=16", f"output={picture}"]
    assert main(["sample", str(folder), "a photo of sks dog", *options]) == 0
    assert np.asarray(Image.open(picture)).std() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["adapter.targets=attn_mlp", "train.batch_size=8"],
            "adapter.targets has 'attn_mlp', which no layer matches: use attn-mlp,",
        ),
        (["adapter.kind=full"], "adapter.rank is 2, but adapter.kind=full has no use for it: set adapter.kind, or"),
    ],
)
def test_what_cannot_be_meant_is_refused_on_one_line(tmp_path, photos, capsys, settings, message):
    assert train(tmp_path / "run", photos, *settings) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_rate_for_whole_networks_is_doubted(tmp_path, photos, caplog):
    settings = ["optimizer.learning_rate=2e-6", "model.path=/nowhere", "train.batch_size=8"]
    assert train(tmp_path / "run", photos, *settings) == 2
    assert "adapter.kind=lora hardly learns below 1e-05, and 1e-4 is usual" in caplog.text
