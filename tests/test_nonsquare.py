# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures that are wider than high, from the photos to the exported model's pictures."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax.cli import main
from dreambooth_jax.config import DataConfig, load_config, save_config, to_dict
from dreambooth_jax.planning.elsewhere import config_of
from dreambooth_jax.size import Size
from tests.runs import MODEL, tiny_config, traced_plan

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]

WIDE = ["data.resolution=24x16", "train.batch_size=2", "train.steps=1", "checkpoint.every=1", "prior.num_images=2"]
GRIDS = ["samples.every=1", "samples.steps=2", "samples.num_images=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("wide")


@pytest.fixture(scope="module")
def run(root):
    return dbx.train(tiny_config(root, *WIDE, *GRIDS)).folder


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_everything_of_a_run_has_that_size(root, run):
    assert {size_of(path) for path in (root / "class").glob("*.png")} == {(24, 16)}
    lines = [json.loads(line) for line in (root / "class" / "manifest.jsonl").read_text().splitlines()]
    assert {(line["height"], line["width"]) for line in lines} == {(16, 24)}
    shapes = {np.load(path)["mean"].shape for path in (run / "cache").rglob("moments-*.npz")}
    assert {shape[2:4] for shape in shapes} == {(16 // 2, 24 // 2)}
    assert np.isfinite(json.loads((run / "metrics.jsonl").read_text())["loss"])
    before, after = (size_of(run / "samples" / f"step_{step:06d}.png") for step in (0, 1))
    assert before == after


def test_the_run_is_known_again(root, run):
    assert load_config(run / "config.yaml").data.size == Size(height=16, width=24)

    def times():
        files = (path for path in run.rglob("*") if path.name not in ("config.yaml", ".lock"))
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    dbx.train(tiny_config(root, *WIDE, *GRIDS))
    assert before == times()


def test_samples_of_the_run_have_its_size(run, tmp_path):
    assert main(["sample", str(run), "a dog", "--num_images=1", "--steps=1", f"--out={tmp_path}"]) == 0
    assert size_of(tmp_path / "000-seed0.png") == (24, 16)
    (pictures,) = [dbx.load_pretrained(run / "model")(["a dog"], steps=1, height=16, width=24)]
    assert pictures.shape == (1, 16, 24, 3)


def test_a_plan_is_of_that_size(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.msgpack", "*.npz"))
    settings = [f"model.path={model}", "samples.every=0", "prior.weight=0"]
    wide, square = (
        traced_plan(tiny_config(tmp_path, *WIDE, *settings, f"data.resolution={size}")) for size in ("32x16", 16)
    )
    assert wide.steps[0].flops > 1.5 * square.steps[0].flops
    assert wide.state["batch"] > square.state["batch"]


@pytest.mark.parametrize(("setting", "stored"), [("768x512", "768x512"), ("512x512", 512), ("512", 512)])
def test_a_setting_survives_files_and_messages(tmp_path, setting, stored):
    config = load_config(None, [f"data.resolution={setting}"])
    assert to_dict(config)["data"]["resolution"] == stored
    save_config(tmp_path / "config.yaml", config)
    assert load_config(tmp_path / "config.yaml") == config
    assert config_of(json.loads(json.dumps(to_dict(config)))) == config
    assert DataConfig(resolution=setting).size == config.data.size
