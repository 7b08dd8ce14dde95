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
from tests.runs import MODEL, assert_same, cut_short, draw_photos, weights

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")

SETTINGS = [
    f"model.path={MODEL}",
    *("data.class_noun=dog", "data.resolution=16", "prior.weight=0", "samples.every=0"),
    *("adapter.kind=lora", "adapter.rank=2", "optimizer.learning_rate=1e-2", "text_encoder.stop=-1"),
    *("train.steps=4", "train.batch_size=2", "checkpoint.every=2", "checkpoint.keep_last=9"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp("photos"))


def train(folder, photos, *settings):
    return main(["train", f"run_dir={folder}", f"data.instance_images={photos}", *SETTINGS, *settings])


def on_devices(patch, count):
    patch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:count])))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, photos):
    """Folder of a whole run on one device."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        assert train(folder, photos) == 0
    return folder


@pytest.mark.slow
def test_checkpoints_hold_what_is_trained_alone(alone):
    trained, before = weights(alone, 4), weights(alone, 2)
    assert {name.split("/")[0] for name in trained} == {"unet", "text_encoder"}
    assert {name.split("/")[-1] for name in trained} == {"lora_down", "lora_up"}
    for name, leaf in trained.items():
        assert (leaf != before[name]).any(), name


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(alone, tmp_path, photos, monkeypatch):
    on_devices(monkeypatch, 1)
    halves = cut_short(alone, 2, tmp_path / "halves")
    assert train(halves, photos) == 0
    assert_same(weights(alone, 4), weights(halves, 4))


@pytest.mark.slow
def test_devices_do_not_matter(alone, tmp_path, photos, monkeypatch):
    on_devices(monkeypatch, 2)
    monkeypatch.setattr("dreambooth_jax.training.parallel.sharded.SHARDING_THRESHOLD", 64)
    assert train(tmp_path, photos, "train.parallel=fsdp") == 0
    first, found = weights(alone, 2), weights(tmp_path, 4)
    for name, leaf in weights(alone, 4).items():
        assert np.abs(found[name] - leaf).max() <= 1e-2 * np.abs(leaf - first[name]).max(), name


@pytest.mark.slow
def test_what_it_draws_is_the_adapted_model(alone, tmp_path, monkeypatch):
    on_devices(monkeypatch, 1)
    trained, original = trees.unflatten(weights(alone, 4)), trees.flatten(dbx.load_pretrained(MODEL).params)
    for name, leaf in trees.flatten(open_model(str(alone)).params).items():
        tensors = trained.get(name.split("/")[0], {})
        for part in name.split("/")[1:-1]:
            tensors = tensors.get(part, {})
        expected = np.asarray(original[name])
        if name.endswith("/kernel") and "lora_up" in tensors:
            product = tensors["lora_down"] @ tensors["lora_up"].reshape(2, -1)
            expected = expected + np.asarray(product).reshape(expected.shape)
            assert np.abs(expected - original[name]).max() > 1e-5
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    options = ["steps=2", "height=16", "width=16", "num_images=1", f"out={tmp_path}"]
    assert main(["sample", str(alone), "a photo of sks dog", *options]) == 0
    drawn = list(tmp_path.rglob("*.png"))
    assert drawn
    assert all(np.asarray(Image.open(path)).std() > 0 for path in drawn)


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
    assert "adapter.kind=lora hardly learns below 1e-05, and 0.0001 is usual" in caplog.text
