# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs of several subjects, as the shipped settings have them."""

import json

import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax.config import load_config
from dreambooth_jax.prepare.class_photos import class_folders, common_folder
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.grids import grids_of
from tests.runs import assert_same, cut_short, draw_photos, tiny_config, weights

pytestmark = [pytest.mark.usefixtures("one_device"), pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photos of a dog and of a cat."""
    root = tmp_path_factory.mktemp("concepts")
    draw_photos(root / "dog", 3)
    draw_photos(root / "cat", 5)
    return root


def two_subjects(root, *overrides):
    """The shipped settings at tiny size."""
    places = [f"data.concepts.{i}.instance_images={root / name}" for i, name in enumerate(("dog", "cat"))]
    tiny = tiny_config(root)
    sizes = [f"model.path={tiny.model.path}", "data.resolution=16", "prior.num_images=2", "prior.steps=2"]
    sizes += ["prior.batch_size=1", "train.batch_size=4", "train.steps=4", "train.log_every=1", "checkpoint.every=1"]
    sizes += ["checkpoint.keep_last=9", "samples.every=4", "samples.steps=2", "samples.num_images=1"]
    return load_config("two_subjects", [f"run_dir={root / 'run'}", *sizes, *places, *overrides])


@pytest.fixture(scope="module")
def run(root):
    return dbx.train(two_subjects(root)).folder


@pytest.mark.slow
def test_each_subject_has_class_images_and_metrics_of_its_own(root, run):
    folders = {path.name: len([*path.glob("*.png")]) for path in (run / "class_images").iterdir()}
    assert folders == {"a_photo_of_a_dog": 2, "a_photo_of_a_cat": 2}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        parts = [line[f"instance_loss/{name}"] for name in ("sks", "zwx")]
        assert min(parts) > 0
        assert line["instance_loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert line["loss"] == pytest.approx(line["instance_loss"] + line["prior_loss"], rel=1e-5)


@pytest.mark.slow
def test_grids_have_rows_of_each_and_share_those_that_say_the_same(root, run):
    with Image.open(run / "samples" / "step_000004.png") as grid:
        rows = json.loads(grid.text["dreambooth_jax"])["grid"]
    each = [f"a photo of {who}{where}" for who in ("sks dog", "zwx cat") for where in ("", " on the beach")]
    of_classes = ["a photo of a dog", "a photo of a cat"]
    assert rows == [*each[:2], "a photo of sks dog and zwx cat side by side", *each[2:], *of_classes]


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(root, run):
    halves = cut_short(run, 1, root / "killed")
    dbx.train(two_subjects(root, f"run_dir={halves}", "samples.every=0"))
    assert_same(weights(run, 4), weights(halves, 4))


def test_one_class_has_one_folder(root):
    folders = class_folders(two_subjects(root, "data.concepts.1.class_noun=dog"))
    assert len(set(folders.values())) == 1
    assert common_folder(folders.values()) == next(iter(folders.values()))
    own = class_folders(two_subjects(root, "data.concepts.1.class_images=cats", "prior.class_images=shared"))
    assert {name: str(path) for name, path in own.items()} == {"sks": "shared/a_photo_of_a_dog", "zwx": "cats"}
    assert class_folders(two_subjects(root, "prior.weight=0")) == {}
    assert list(class_folders(two_subjects(root, "data.concepts.0.weight=0"))) == ["zwx"]


def test_rows_of_one_subject_are_as_they_were(root):
    grids = grids_of(tiny_config(root, "samples.prompts=x; x"), RunFolder(root))
    assert grids.settings.prompts == ["x", "x", "a photo of a dog"]
