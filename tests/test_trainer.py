# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.cli import main
from dreambooth_jax.config import save_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.training.checkpoint import complete_steps
from tests.runs import assert_same, killed_at, tiny_config, weights

# Warnings that a random 16-pixel model and prompts of nothing but vocabulary rightly cause.
pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photos and class images that all runs of this file share."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def uninterrupted(root):
    """A whole run with samples: six steps on all eight pretended devices."""
    return dbx.train(tiny_config(root, f"run_dir={root / 'whole'}", "samples.every=3", "samples.steps=2")).folder


def test_the_run_folder_is_complete(uninterrupted):
    assert complete_steps(uninterrupted / "checkpoints") == [3, 6]
    grids = {"before_after.png", *(f"step_{step:06d}.png" for step in (0, 3, 6))}
    assert {path.name for path in (uninterrupted / "samples").iterdir()} == grids
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] == pytest.approx(line["instance_loss"] + line["prior_loss"], rel=1e-5) for line in lines)
    assert list(uninterrupted.glob("events.out.tfevents.*"))
    assert dbx.load_config(uninterrupted / "config.yaml").train.steps == 6


def test_the_exported_model_is_what_was_trained(uninterrupted):
    exported = dbx.load_pretrained(uninterrupted / "model").params
    trained = weights(uninterrupted, 6)
    found = trees.flatten(exported)
    for name, leaf in trained.items():
        np.testing.assert_array_equal(np.asarray(found[name]), leaf, err_msg=name)
    original = trees.flatten(dbx.load_pretrained(tiny_config(uninterrupted.parent).model.path).params)
    assert all((np.asarray(original[name]) != leaf).any() for name, leaf in trained.items())
    frozen = [name for name in original if name not in trained]
    assert {name.split("/")[0] for name in frozen} == {"vae", "text_encoder"}
    for name in frozen:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(original[name]), err_msg=name)


def test_sample_grids_carry_their_settings_and_change_with_training(uninterrupted):
    with Image.open(uninterrupted / "samples" / "step_000000.png") as first:
        assert json.loads(first.text["dreambooth_jax"])["prompt"] == "a photo of sks dog | a photo of a dog"
        before = np.asarray(first)
    with Image.open(uninterrupted / "samples" / "step_000006.png") as last:
        after = np.asarray(last)
    assert (after != before).any()
    with Image.open(uninterrupted / "samples" / "before_after.png") as both:
        np.testing.assert_array_equal(np.asarray(both), np.concatenate([before, after], axis=1))


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(root, uninterrupted, monkeypatch):
    config = tiny_config(root, f"run_dir={root / 'killed'}")
    with monkeypatch.context() as patch:
        patch.setattr("dreambooth_jax.trainer.training.run_phases", killed_at(2))
        folder = dbx.train(config).folder
    assert complete_steps(folder / "checkpoints") == [2]
    assert not (folder / "model").exists()
    dbx.train(config)
    assert_same(weights(uninterrupted, 6), weights(folder, 6))
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_after_ctrl_c_nothing_else_is_begun_and_a_preempted_job_has_done_its_duty(
    root, monkeypatch, sent, code, capsys
):
    """``train && export`` stops after Ctrl-C; both have saved. ``train`` itself says which of them it was."""
    monkeypatch.setattr("dreambooth_jax.trainer.training.run_phases", killed_at(1, sent=sent))
    folder = root / f"stopped{code}"
    save_config(root / f"{code}.yaml", tiny_config(root, f"run_dir={folder}", "train.steps=2", "prior.num_images=2"))
    assert main(["train", str(root / f"{code}.yaml")]) == code
    assert capsys.readouterr().out == f"{folder}\n"
    assert complete_steps(folder / "checkpoints") == [1]
    again = dbx.load_config(root / f"{code}.yaml", ["train.steps=3"])
    monkeypatch.setattr("dreambooth_jax.trainer.training.run_phases", killed_at(2, sent=sent))
    stopped = dbx.train(again)
    assert (stopped.step, stopped.finished, stopped.signal) == (2, False, sent)


def test_a_finished_run_is_left_alone(uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in (uninterrupted / "model").rglob("*")}
    assert dbx.train(dbx.load_config(uninterrupted / "config.yaml")).finished
    assert before == {path: path.stat().st_mtime_ns for path in (uninterrupted / "model").rglob("*")}


def test_changed_settings_or_photos_refuse_to_resume(root, uninterrupted):
    folder = root / "changed"
    shutil.copytree(uninterrupted, folder)
    with pytest.raises(InputError, match="train.seed was 0 and is 1"):
        dbx.train(tiny_config(root, f"run_dir={folder}", "train.seed=1"))
    photos = root / "other_photos"
    shutil.copytree(root / "photos", photos)
    (photos / "4.png").unlink()
    with pytest.raises(InputError, match="the instance images, their captions or weights changed"):
        dbx.train(tiny_config(root, f"run_dir={folder}", f"data.instance_images={photos}"))
    assert complete_steps(folder / "checkpoints") == [3, 6]


@pytest.mark.slow
def test_the_result_says_where_it_is_and_how_far_it_came(root, uninterrupted):
    again = dbx.train(dbx.load_config(uninterrupted / "config.yaml"))
    assert again == dbx.RunResult(
        folder=uninterrupted,
        step=6,
        finished=True,
        model=uninterrupted / "model",
        picture=uninterrupted / "samples" / "before_after.png",
    )
    heard = []
    stopped = dbx.train(
        tiny_config(root, f"run_dir={root / 'asked'}", "checkpoint.every=100"),
        listeners=[lambda step, values: heard.append((step, values["loss"]))],
        should_stop=lambda: len(heard) >= 2,
    )
    assert (stopped.finished, stopped.model, stopped.picture, stopped.signal) == (False, None, None, None)
    assert complete_steps(stopped.folder / "checkpoints") == [stopped.step]
    lines = [json.loads(line) for line in (stopped.folder / "metrics.jsonl").read_text().splitlines()]
    assert heard == [(line["step"], line["loss"]) for line in lines]
    assert len(heard) >= 2
    assert dbx.train(tiny_config(root, f"run_dir={stopped.folder}", "checkpoint.every=100")).finished
    assert_same(weights(uninterrupted, 6), weights(stopped.folder, 6))


def test_fewer_steps_than_were_taken_are_refused(root, uninterrupted):
    """Else the longer trained weights would pass for those of the shorter run."""
    before = (uninterrupted / "config.yaml").read_text()
    for steps, way in ((4, r"export the checkpoint of step 3 \(--step 3\)$"), (2, "choose another run_dir$")):
        overrides = [f"run_dir={uninterrupted}", "samples.every=3", "samples.steps=2", f"train.steps={steps}"]
        with pytest.raises(InputError, match=f"train.steps is {steps}, but this run has taken 6 steps already.*{way}"):
            dbx.train(tiny_config(root, *overrides))
    assert (uninterrupted / "config.yaml").read_text() == before


def test_a_finished_run_exports_again_what_is_asked_for_otherwise(root, uninterrupted, caplog):
    folder = root / "again"
    shutil.copytree(uninterrupted, folder)
    settings = [f"run_dir={folder}", "samples.every=3", "samples.steps=2"]
    file = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    size = file.stat().st_size
    dbx.train(tiny_config(root, *settings, "export.dtype=float16"))
    assert file.stat().st_size < 0.6 * size
    dbx.train(tiny_config(root, *settings))
    assert file.read_bytes() == (uninterrupted / file.relative_to(folder)).read_bytes()
    caplog.clear()
    dbx.train(tiny_config(root, *settings[:1], "samples.every=2", "samples.steps=2"))
    assert "samples.every=2 (was 3): too late" in caplog.text


@pytest.mark.slow
def test_a_model_of_fewer_steps_does_not_pass_for_that_of_more(root, uninterrupted):
    """The run was continued, and ended between its last checkpoint and its export."""
    folder = root / "continued"
    shutil.copytree(uninterrupted, folder)
    model = {path: path.read_bytes() for path in (folder / "model").rglob("*.safetensors")}
    more = tiny_config(root, f"run_dir={folder}", "train.steps=7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreambooth_jax.trainer.run.export", lambda *_, **__: None)
        dbx.train(more)
    assert complete_steps(folder / "checkpoints")[-1] == 7
    dbx.train(more)
    trained, exported = weights(folder, 7), trees.flatten(dbx.load_pretrained(folder / "model").params)
    assert_same(trained, {name: np.asarray(exported[name]) for name in trained})
    assert any(path.read_bytes() != content for path, content in model.items())


@pytest.mark.slow
def test_a_last_update_that_spoils_the_weights_is_not_saved(root):
    """Its loss is that of the weights before, and finite."""
    rates = ["optimizer.learning_rate=3e38", "optimizer.weight_decay=100"]
    config = tiny_config(root, f"run_dir={root / 'spoilt'}", "train.steps=1", "checkpoint.every=1", *rates)
    with pytest.raises(InputError, match=r"the weight unet/\S+ is not finite after step 1 .* no checkpoint was due"):
        dbx.train(config)
    assert complete_steps(root / "spoilt" / "checkpoints") == []
    assert not (root / "spoilt" / "model").exists()


def test_the_same_photos_elsewhere_are_the_same_run(root, uninterrupted):
    folder, photos = root / "moved", root / "moved_photos"
    shutil.copytree(uninterrupted, folder)
    shutil.copytree(root / "photos", photos)
    settings = [f"run_dir={folder}", f"data.instance_images={photos}", "samples.every=3", "samples.steps=2"]
    assert dbx.train(tiny_config(root, *settings)).finished


def test_two_runs_in_one_folder_are_refused(root, uninterrupted):
    with locked(uninterrupted), pytest.raises(InputError, match="in use by another run"):
        dbx.train(dbx.load_config(uninterrupted / "config.yaml"))


def test_lost_and_damaged_class_images_are_made_again_bit_for_bit(root, uninterrupted):
    folder = root / "class"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "000001.png").unlink()
    (folder / "000004.png").write_bytes(before["000004.png"][:-50])
    dbx.train(dbx.load_config(uninterrupted / "config.yaml"))  # refuses to go on if any class image changed
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(root):
    config = tiny_config(root, f"run_dir={root / 'diverged'}", "optimizer.learning_rate=1e30", "checkpoint.every=1")
    with pytest.raises(
        InputError, match=r"(loss|grad_norm) is .* at step \d; the last good checkpoint is step 1"
    ) as error:
        dbx.train(config)
    assert "optimizer.learning_rate=1e+30" in str(error.value)
    assert not (root / "diverged" / "model").exists()
    for step in complete_steps(root / "diverged" / "checkpoints"):
        assert all(np.isfinite(leaf).all() for leaf in weights(root / "diverged", step).values())


def test_a_batch_that_the_devices_do_not_divide_is_refused_before_anything_is_read(root):
    assert jax.device_count() == 8
    with pytest.raises(InputError, match="use train.batch_size 4"):
        dbx.train(tiny_config(root, "train.batch_size=3", "model.path=/nowhere"))


@pytest.mark.slow
def test_the_options_work_together_and_masters_stay_float32(root):
    """bfloat16, rematerialisation, accumulation, moving average, random mirrored crops, decaying rate, text encoder."""
    options = [
        "train.dtype=bfloat16",
        "train.remat=blocks",
        "train.accumulation=2",
        "train.batch_size=8",
        "train.ema_decay=0.9",
        "train.steps=2",
        "data.crop=random",
        "data.flip=true",
        "optimizer.schedule=cosine",
        "optimizer.warmup_steps=1",
        "text_encoder.stop=-1",
        "text_encoder.learning_rate=1e-4",
        "export.dtype=float16",
    ]
    folder = dbx.train(tiny_config(root, f"run_dir={root / 'options'}", *options)).folder
    for ema in (False, True):
        leaves = weights(folder, 2, ema=ema)
        assert {leaf.dtype for leaf in leaves.values()} == {np.dtype(np.float32)}
        assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    rates = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate/unet"] for line in rates] == pytest.approx([0, 1e-3])
    assert [line["learning_rate/text_encoder"] for line in rates] == pytest.approx([0, 1e-4])
    assert dbx.load_pretrained(folder / "model").params["unet"]["conv_in"]["kernel"].dtype == np.float32
