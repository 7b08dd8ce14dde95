# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import importlib.util
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from real_size import command, model, stages

from dreambooth_jax.models.families import SD, SDXL
from dreambooth_jax.trees import count
from dreambooth_jax.weights.modules import build_modules, parameter_shapes
from dreambooth_jax.weights.pretrained import load_components

pytestmark = pytest.mark.slow  # a process, and a compilation, for every stage

HAS_TORCH = importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers")


def run(*arguments, size="tiny"):
    """The script in a process of its own: its stages would count this one's memory as theirs."""
    line = [sys.executable, str(command.SCRIPT), "--size", size, *map(str, arguments)]
    return subprocess.run(line, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real_size")


@pytest.fixture(scope="module")
def whole(folder):
    """All stages."""
    done = run("--folder", folder, "--out", folder / "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, {report["stage"]: report for report in json.loads((folder / "report.json").read_text())}


def test_every_stage_is_measured(whole):
    printed, reports = whole
    assert list(reports) == list(stages.STAGES)
    for name, report in reports.items():
        peaks = [entry["peak_gb"] for entry in report["log"]]
        assert peaks == sorted(peaks)
        if peaks:
            assert peaks[-1] <= report["peak_gb"]
        assert sum(entry["seconds"] for entry in report["log"]) < report["seconds"]
        assert f"\n{name} " in printed
    assert reports["build"]["peak_gb"] < reports["train"]["peak_gb"]  # a peak is a stage's own


def test_losses_are_finite_and_two(whole):
    losses = whole[1]["train"]["losses"]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parity
@pytest.mark.skipif(not HAS_TORCH, reason="needs torch and diffusers")
def test_torch_agrees(whole):
    assert 0 < whole[1]["torch"]["difference_per_scale"] <= 1e-5


def test_without_torch_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    place = stages.Place(folder=tmp_path, size="tiny")
    assert stages.torch(place, stages.Journal()) == {"skipped": "diffusers is not installed"}


def test_the_folder_holds_what_was_drawn(whole, folder):
    params = load_components(folder / "model").params
    assert whole[1]["build"]["parameters"] == {part: count(tree) for part, tree in params.items()}
    kernel = params["unet"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel, model.RandomLeaf(name="unet/conv_in/kernel", shape=kernel.shape))


PUBLISHED = {
    "sd15": (SD, {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
    "sdxl": (
        SDXL,
        {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
    ),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_real_size_is_that_of_the_published_checkpoint(size):
    """In numbers of parameters."""
    family, published = PUBLISHED[size]
    modules = build_modules(model.SIZES[size], family)
    assert {part: count(parameter_shapes(family.components[part], one)) for part, one in modules.items()} == published


@pytest.mark.parity
@pytest.mark.skipif(not HAS_TORCH, reason="needs torch and diffusers")
def test_torch_agrees_on_xl(tmp_path):
    """Which is kept in bfloat16, and computed in float32 by both."""
    done = run("--folder", tmp_path, "--out", tmp_path / "report.json", "--stages", "build,unet,torch", size="tiny_xl")
    assert done.returncode == 0, done.stdout + done.stderr
    build, _, torch = json.loads((tmp_path / "report.json").read_text())
    assert build["file_gb"] < 2.1e-9 * sum(build["parameters"].values())
    assert 0 < torch["difference_per_scale"] <= 1e-5


def test_weights_keep_the_size_of_what_passes_through():
    kernel = np.asarray(model.RandomLeaf(name="a/kernel", shape=(3, 3, 64, 32)))
    draw = np.random.default_rng(0)
    out = draw.standard_normal((500, 3 * 3 * 64), np.float32) @ kernel.reshape(-1, 32)
    assert kernel.dtype == np.float32
    assert out.std() == pytest.approx(1, rel=0.05)
    assert np.asarray(model.RandomLeaf(name="a/scale", shape=(1000,))).mean() == pytest.approx(1, abs=0.02)
    assert np.asarray(model.RandomLeaf(name="a/bias", shape=(1000,))).mean() == pytest.approx(0, abs=0.02)


def test_a_stage_that_fails_ends_the_run(tmp_path):
    done = run("--folder", tmp_path, "--stages", "load,train")
    assert done.returncode == 1
    assert "exit code 1" in done.stdout
    assert "train" not in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory is left")
def test_it_stops_before_the_machine_is_out_of_memory(tmp_path):
    done = run("--folder", tmp_path, "--stages", "build", "--spare-gb", "1e6")
    assert done.returncode == 1
    assert "of the machine's memory were left" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("report", "good"),
    [
        ({"memory_per_file_size": 1.29, "file_gb": 4.3}, True),
        ({"memory_per_file_size": 1.31, "file_gb": 4.3}, False),
        ({"memory_per_file_size": 6.0, "file_gb": 0.01}, True),  # says nothing about the loader
        ({"difference_per_scale": 2e-5}, False),
        ({"difference_per_scale": math.nan}, False),
        ({"skipped": "torch is not installed"}, True),
    ],
)
def test_limits(report, good):
    assert (not list(command.shortfalls(report))) is good


def test_unknown_stage(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(None, ["--folder", str(tmp_path), "--stages", "load,sleep"])
    assert "no stage sleep: there are build, load" in capsys.readouterr().err
