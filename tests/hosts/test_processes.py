# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Two processes with two devices each do what one process with four does."""

import json

import jax
import numpy as np
import pytest

from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.prepare.cache import latent_moments
from dreambooth_jax.prepare.class_image_store import MADE, read_manifest, usable_pictures
from dreambooth_jax.prepare.class_images import ensure_class_images
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import Checkpoints, complete_steps, read_meta, read_weights
from dreambooth_jax.training.parallel import make_mapper
from tests import runs
from tests.hosts import processes
from tests.hosts.worker import MAPPERS, RECIPE, SPOILT, VIEWS
from tests.prepare.fake import FakePipeline
from tests.training import toy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both processes did, in one launch."""
    folder = tmp_path_factory.mktemp("hosts")
    runs.draw_photos(folder / "photos")
    processes.run(["-m", "tests.hosts.worker", str(folder)])
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    return [json.loads((folder / f"report{i}.json").read_text()) for i in range(2)]


@pytest.fixture(scope="module")
def alone():
    """(state after three steps, after five, losses) of one process with four devices."""
    mapper = make_mapper("pmap", Target.of(jax.devices()[:4]))
    return toy.run(mapper, steps=3)[0], *toy.run(mapper, steps=5)


def leaves_of(file):
    with np.load(file) as stored:
        return [stored[f"arr_{i}"] for i in range(len(stored.files))]


def test_each_has_its_devices_and_hears_of_the_other(reports):
    for report in reports:
        assert report["devices"] == [4, 2]
        assert report["gathered"] == [[0, 1], [10, 11]]


@pytest.mark.parametrize("name", MAPPERS)
def test_losses_and_parameters_are_those_of_one_process(folder, reports, alone, name):
    _, expected, losses = alone
    for report in reports:
        np.testing.assert_allclose(report[name]["losses"], losses, rtol=2e-6)
    found = leaves_of(folder / f"{name}.npz")
    for a, b in zip(jax.tree.leaves(expected), found, strict=True):
        np.testing.assert_allclose(b, np.asarray(a), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", MAPPERS)
def test_each_brings_its_own_half_of_the_batch(reports, name):
    assert [report[name]["rows"] for report in reports] == [[0, 8], [8, 16]]


@pytest.mark.parametrize(("name", "part"), [("pmap", 1), ("fsdp", 1 / 4), ("fsdp in pairs", 1 / 2)])
def test_a_device_holds_its_part_of_the_parameters(reports, name, part):
    assert [report[name]["held"] for report in reports] == [part, part]


def test_each_draws_with_all_parameters_in_parts_on_its_own_devices(reports):
    """Where a whole copy takes too much of a device. What is written process 0 has in its host's memory."""
    for report in reports:
        assert report["drawn"] == {"a": 64 * 96 // 2, "b": 128 * 50 // 2, "c": 15}


@pytest.mark.parametrize("name", MAPPERS)
def test_one_process_restores_what_two_wrote(folder, alone, name):
    expected, _, _ = alone
    assert complete_steps(folder / name) == [3]
    assert read_meta(folder / name, 3) == {"note": "kept", "step": 3}
    for mapper in (make_mapper("auto", Target.of(jax.devices()[:1])), make_mapper("fsdp", Target.of(jax.devices()))):
        checkpoints = Checkpoints(folder / name)
        restored = checkpoints.restore(mapper.restore_target(jax.eval_shape(lambda: toy.setup()[2])), step=3)
        checkpoints.close()
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(restored), strict=True):
            np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=2e-5, atol=2e-6)
    weights = read_weights(folder / name, 3, ema=False)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)), weights, restored.trainable)


def test_a_signal_to_one_stops_both_after_the_same_step(reports):
    stopped = {report["stopped"] for report in reports}
    assert len(stopped) == 1
    assert 4 <= stopped.pop() <= 7


def test_what_differs_is_refused_by_both(reports):
    for report in reports:
        assert report["unlike"].startswith("process 1 has not the same settings as process 0")
        assert "own" in report["apart"]
        assert "is not one folder for all processes: process 1 has not seen" in report["apart"]
        assert report["alike"] is None
        assert report["shared"] is None


def test_what_one_has_to_say_all_hear(reports):
    assert [report["said"][:2] for report in reports] == [["", "mine is 0"], ["", "mine is 1"]]
    own = reports[1]["said"][2]
    heard = reports[0]["said"][2].removeprefix("process 1: ")
    assert own == "é" * 300
    assert 100 < len(heard) < 300
    assert own.startswith(heard)
    assert [report["said"][3] for report in reports] == ["", ""]


def test_members_whose_photos_one_process_cannot_read_are_left_out_by_all(reports):
    for number, report in enumerate(reports):
        for said in report["group"]:
            assert "nothing" in said
            assert said.startswith("process 1: ") == (number == 0)


def test_who_waits_alone_is_told_so(reports):
    assert [report["both here"] for report in reports] == [True, True]
    assert not reports[0]["alone here"]


def test_class_images_are_those_that_one_process_makes(folder, reports, tmp_path):
    ensure_class_images(FakePipeline(SPOILT.get), tmp_path, RECIPE, num_images=11, seed=2, batch_size=4)
    assert {report["prepare"]["count"] for report in reports} == {11}
    assert usable_pictures(folder / "class") == usable_pictures(tmp_path)
    for name in usable_pictures(tmp_path):
        assert (folder / "class" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert read_manifest(folder / "class") == read_manifest(tmp_path)
    assert [line["seed"] for line in read_manifest(tmp_path) if line["status"] != "kept"] == list(SPOILT)
    assert not (folder / "class" / MADE).exists()


def test_class_images_are_shared_out(reports):
    made = [report["prepare"]["made"] for report in reports]
    assert made[0][:4] == [2, 3, 6, 7]
    assert made[1][:4] == [4, 5, 8, 9]
    assert not set(made[0]) & set(made[1])


def test_latents_are_shared_out_cached_and_the_same_everywhere(folder, reports, tmp_path):
    subject = Subject(identifier="sks", class_noun="dog")
    photos = load_images(folder / "photos", prompt="a {identifier}", subject=subject)
    expected = latent_moments(FakePipeline(), photos, VIEWS, folder=tmp_path, model="m", batch_size=3)
    with np.load(folder / "moments.npz") as found:
        np.testing.assert_array_equal(found["mean"], expected[0])
        np.testing.assert_array_equal(found["logvar"], expected[1])
    assert [report["prepare"]["encoded"] for report in reports] == [24, 24], "3 of 5 photos in 8 views each"
    assert [report["prepare"]["encoded_again"] for report in reports] == [0, 0]
