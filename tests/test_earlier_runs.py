# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run folder that version 0.1.0 left behind goes on, draws and exports as if nothing had changed.

``fixtures/earlier_run.tar.xz`` is a tiny random model and a run of four steps with text encoder, prior preservation and
moving average, of which the first two are done; and pictures that 0.1.0 drew with its checkpoint.
"""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.config import to_dict
from dreambooth_jax.training.checkpoint import read_meta
from dreambooth_jax.training.resume import changed_keys
from tests.runs import weights

ARCHIVE = Path(__file__).parent / "fixtures" / "earlier_run.tar.xz"
SETTINGS = (
    *("model.path=model", "data.instance_images=photos", "data.class_noun=dog", "data.resolution=16"),
    *("prior.num_images=2", "prior.steps=2", "prior.batch_size=1", "optimizer.learning_rate=1e-3", "train.steps=4"),
    *("train.log_every=1", "train.batch_size=4", "checkpoint.every=2", "checkpoint.keep_last=2", "samples.every=0"),
    *("train.ema_decay=0.5", "text_encoder.stop=3", "train.parallel=pmap"),
)

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "earlier_run")
    return Path("run")


def distance(a, b):
    """Mean over all leaves: AdamW takes a full step along a gradient of next to nothing, whatever its sign."""
    return np.mean(np.concatenate([np.abs(a[name] - b[name]).ravel() for name in a]))


def picture(path):
    return np.asarray(Image.open(path), np.int16)


def test_nothing_of_it_has_another_default_now(earlier):
    """The settings that it stored, and those that its command makes today."""
    stored = read_meta(earlier / "checkpoints", 2)["config"]
    assert changed_keys(stored, to_dict(dbx.load_config(None, ["run_dir=run", *SETTINGS]))) == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_training_goes_on_as_if_it_had_never_stopped(earlier):
    """As a whole run of today ends: to rounding only, for the first two steps were taken by another processor."""
    dbx.train(dbx.load_config(None, ["run_dir=run", *SETTINGS]))
    dbx.train(dbx.load_config(None, ["run_dir=fresh", "prior.class_images=run/class_images", *SETTINGS]))
    before, both, whole = weights(earlier, 2), weights(earlier, 4), weights(Path("fresh"), 4)
    average, whole_average = weights(earlier, 4, ema=True), weights(Path("fresh"), 4, ema=True)
    assert both.keys() == whole.keys() == average.keys()
    moved = distance(both, before)
    assert distance(both, whole) < 1e-3 * moved
    assert distance(average, whole_average) < 1e-3 * moved


@pytest.mark.parametrize("eta", ["0", "0.7"])
def test_its_checkpoint_draws_what_it_drew(earlier, eta):
    """To a rounding of the last bit: the processor may be another one."""
    options = ["--step=2", "--steps=5", f"--eta={eta}", "--guidance_scale=4", "--num_images=2", "--out=drawn"]
    assert main(["sample", "run", "a photo of sks dog", *options]) == 0
    before, now = (sorted(Path(folder).glob("0*.png")) for folder in (f"drawn_eta_{eta}", "drawn"))
    assert len(before) == len(now) == 2
    for one, other in zip(before, now):
        assert np.abs(picture(one) - picture(other)).max() <= 1
    assert np.ptp(picture(before[0])) > 50  # not a flat picture that anything would equal


def test_its_checkpoint_is_exported(earlier):
    assert main(["export", "run", "out", "--step=2"]) == 0
    trained, there = weights(earlier, 2, ema=True), load_file("out/unet/diffusion_pytorch_model.safetensors")
    np.testing.assert_array_equal(there["conv_in.bias"], trained["unet/conv_in/bias"])
    assert dbx.load_pretrained("out").params["unet"]["conv_in"]["bias"].tolist() == there["conv_in.bias"].tolist()
