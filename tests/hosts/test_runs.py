# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole runs from the command line by two processes with two devices each: nothing about them shows afterwards."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.evaluation.judge import SHIPPED
from dreambooth_jax.training.checkpoint import complete_steps
from tests import runs
from tests.hosts import processes

pytestmark = pytest.mark.slow  # each process compiles everything


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    runs.draw_photos(root / "photos")
    return root


def start(root, *overrides, n=2, devices=2, module="dreambooth_jax"):
    """The command line, or a module that is like it, on n processes."""
    settings = [
        f"model.path={runs.MODEL}",
        f"data.instance_images={root / 'photos'}",
        "data.class_noun=dog",
        "data.resolution=16",
        "prior.num_images=6",
        "prior.steps=2",
        "prior.batch_size=1",
        "optimizer.learning_rate=1e-3",
        "train.steps=6",
        "train.log_every=1",
        "train.batch_size=4",
        "checkpoint.every=3",
        "checkpoint.keep_last=9",
        "samples.every=3",
        "samples.steps=2",
        "samples.num_images=2",
    ]
    # One compilation cache for all of them: most of the time is compiling.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    command = ["-m", module, "train", *settings, *overrides]
    return processes.start(command, processes=n, devices=devices, environment=cache)


def run(root, *overrides, **options):
    ended = processes.finish(start(root, *overrides, **options), timeout=500)
    for code, out, err in ended:
        assert code == 0, f"{out}\n{err}"
    return ended


@pytest.fixture(scope="module")
def by_two(root):
    """(folder, [(exit code, stdout, stderr)])"""
    return root / "two", run(root, f"run_dir={root / 'two'}")


@pytest.fixture(scope="module")
def by_one(root):
    run(root, f"run_dir={root / 'one'}", n=1, devices=4)
    return root / "one"


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_close(expected, found):
    """Adam's first steps are the signs of the gradients: where one is zero to rounding, its sign is anybody's."""
    assert expected.keys() == found.keys()
    apart = [np.abs(found[name] - leaf).ravel() for name, leaf in expected.items()]
    assert np.concatenate(apart).mean() < 2e-6


def test_the_result_is_that_of_one_process(by_one, by_two):
    folder, _ = by_two
    for a, b in zip(metrics(by_one), metrics(folder), strict=True):
        for name in ("loss", "instance_loss", "prior_loss", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=2e-5), (name, a["step"])
    assert_close(runs.weights(by_one, 6), runs.weights(folder, 6))
    exported = trees.flatten(dbx.load_pretrained(folder / "model").params)
    for name, leaf in runs.weights(folder, 6).items():
        np.testing.assert_array_equal(np.asarray(exported[name]), leaf)


def test_the_folder_is_that_of_one_process(by_one, by_two):
    folder, _ = by_two

    def names(path):
        found = {str(file.relative_to(path)) for file in path.rglob("*") if "checkpoints" not in file.parts}
        return {name for name in found if "tfevents" not in name}

    assert names(folder) == names(by_one)
    assert complete_steps(folder / "checkpoints") == complete_steps(by_one / "checkpoints") == [3, 6]
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    for i in range(6):
        pictures = [np.asarray(Image.open(path / "class_images" / f"{i:06d}.png"), int) for path in (folder, by_one)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1  # rounded to 8 bits after other batch sizes


def test_process_0_alone_speaks(by_two):
    folder, ended = by_two
    (_, out, err), (_, other_out, other_err) = ended
    assert ours(out) == [str(folder)]
    assert "6 class images" in err
    assert ours(other_out) == []
    assert all(line.startswith("process 1: ") for line in ours(other_err)), other_err


# "[Gloo] Rank 1 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1", said by several threads,
# whose words and line ends may lie between each other's.
THEIRS = re.compile(r"\[Gloo\]|Rank|is|connected|to|peer|ranks|Expected|number|of|[\d.:\s]")


def ours(text):
    """Lines without those of the library that joins CPUs."""
    return [line for line in text.splitlines() if THEIRS.sub("", line)]


@pytest.mark.parametrize(("n", "devices", "parallel"), [(1, 4, "pmap"), (2, 2, "fsdp")])
def test_others_go_on_with_its_checkpoint(root, by_two, n, devices, parallel):
    folder = root / f"on {n} {parallel}"
    shutil.copytree(by_two[0], folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    shutil.rmtree(folder / "model")
    run(root, f"run_dir={folder}", f"train.parallel={parallel}", "train.fsdp_devices=2", n=n, devices=devices)
    assert_close(runs.weights(by_two[0], 6), runs.weights(folder, 6))
    assert (folder / "model" / "model_index.json").exists()
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_signal_to_one_saves_all_and_the_rest_is_bit_identical(root, by_two):
    folder = root / "stopped"
    shutil.copytree(by_two[0] / "class_images", folder / "class_images")
    options = [f"run_dir={folder}", "checkpoint.every=100", "samples.every=0"]
    run(root, *options, module="tests.hosts.killed")
    (step,) = complete_steps(folder / "checkpoints")
    assert 2 <= step < 6
    assert not (folder / "model").exists()
    run(root, *options)
    runs.assert_same(runs.weights(by_two[0], 6), runs.weights(folder, 6))


def test_a_loss_that_is_not_finite_ends_both_with_one_line(root, by_two):
    folder = root / "diverged"
    shutil.copytree(by_two[0] / "class_images", folder / "class_images")
    ended = processes.finish(
        start(root, f"run_dir={folder}", "optimizer.learning_rate=1e30", "checkpoint.every=1", "samples.every=0"),
        timeout=400,
    )
    for code, _, err in ended:
        assert code == 2, err
        assert len([line for line in err.splitlines() if "the last good checkpoint is step 1" in line]) == 1


def test_what_process_0_measures_says_for_both_which_step_is_the_best(root):
    """Process 0 draws and has the judge; both must save at the same steps, and export the same one."""
    folder = root / "measured"
    measured = (f"evaluate.judge={SHIPPED}", "evaluate.every=1", "checkpoint.keep_best=fidelity*diversity")
    small = ("prior.weight=0", "adapter.kind=lora", "adapter.rank=2", "text_encoder.stop=0", "samples.every=0")
    kept = ("checkpoint.keep_last=1", "export.weights=best", "optimizer.learning_rate=3e-2")
    ended = run(root, *small, *measured, *kept, f"run_dir={folder}")
    scores = {line["step"]: line for line in metrics(folder) if "scores/fidelity" in line}
    assert sorted(scores) == list(range(7))
    worth = {step: one["scores/fidelity"] * one["scores/diversity"] for step, one in scores.items() if step}
    best = max(worth, key=lambda step: worth[step])
    assert complete_steps(folder / "checkpoints") == sorted({best, 6})
    assert f"step {best} was the best" in ended[0][2] or best == 6
    nowhere = start(root, *small, "evaluate.every=1", "evaluate.dino=nowhere.pth", f"run_dir={root / 'unread'}")
    for code, _, err in processes.finish(nowhere, timeout=300):
        assert code == 2, err
        assert "nowhere.pth" in err
