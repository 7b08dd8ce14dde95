# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --grid``: a study in one call."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.cli.grid import draw_grid
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.evaluation import matrix
from dreambooth_jax.evaluation.axes import read_axes
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare import batch_size
from dreambooth_jax.training.parallel import sharding
from tests.cli.test_like import MODEL
from tests.prepare.fake import FakePipeline


def call(tmp_path, *options):
    return main(["sample", MODEL, f"--out={tmp_path}", "height=16", "width=16", *options])


def test_a_study_compiles_one_program(tmp_path, capsys):
    """Steps, guidance and sampler: also where some take two calls of the network in a step."""
    assert call(tmp_path, "a dog", "steps=1", "num_images=1") == 0
    before = sharding._mapped._cache_size()
    assert call(tmp_path, "a dog", "--grid", "steps=2,3 guidance=6,12 sampler=ddim,heun") == 0
    assert sharding._mapped._cache_size() == before
    sheet = tmp_path / "grid-2.png"
    assert capsys.readouterr().out.splitlines()[-1] == str(sheet)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("000-seed0.png", "grid.png", "grid-2.png", "grid-2.json"),
    }
    found = json.loads(sheet.with_suffix(".json").read_text())
    assert found["axes"] == {"steps": ["2", "3"], "guidance_scale": ["6", "12"], "sampler": ["ddim", "heun"]}
    assert len(found["cells"]) == 8
    assert {(cell["steps"], cell["guidance_scale"], cell["sampler"]) for cell in found["cells"]} == {
        (steps, guidance, sampler) for steps in (2, 3) for guidance in (6, 12) for sampler in ("ddim", "heun")
    }
    assert all(cell["seed"] == 0 and cell["prompt"] == "a dog" and cell["model"] == MODEL for cell in found["cells"])


def test_a_cell_is_what_sample_draws(tmp_path):
    assert call(tmp_path, "a dog", "steps=3", "num_images=1", "seed=4") == 0
    assert call(tmp_path, "a dog", "seed=4", "--grid", "steps=2,3") == 0
    picture, sheet = (np.asarray(Image.open(tmp_path / name)) for name in ("000-seed4.png", "grid-2.png"))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, picture.shape)
    assert (np.abs(windows.astype(int) - picture).max(axis=(-3, -2, -1)) <= 1).any()


def test_a_sheet_names_no_folder(tmp_path, monkeypatch):
    """It is shown to others; what is written beside it says where the model was."""
    titles = []
    drawn = matrix.labelled_matrix
    monkeypatch.setattr(
        matrix, "labelled_matrix", lambda *parts, title: titles.append(title) or drawn(*parts, title=title)
    )
    assert call(tmp_path, "a dog", "--grid", "steps=1,2") == 0
    assert titles == [f"{Path(MODEL).name} · a dog"]


def test_models_and_prompts_vary_too(tmp_path):
    assert call(tmp_path, "--grid", f"model={MODEL},{MODEL} prompt='a dog;a cat'", "steps=1") == 0
    before = sharding._mapped._cache_size()
    assert call(tmp_path, "--grid", f"model={MODEL},{MODEL} prompt='a dog;a cat'", "steps=1") == 0
    assert sharding._mapped._cache_size() == before, "nor is anything compiled for another model of the same shape"


def test_checkpoints_of_a_run_are_opened_once_each(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "pictures_at_once", lambda pipe, sampling, *, count, control: count)
    monkeypatch.setattr("dreambooth_jax.pipeline.sizes.settled", lambda pipe, sampling, given: sampling)
    asked = []

    def open_(options):
        asked.append(options.step)
        pipe = FakePipeline()
        model = SimpleNamespace(pipe=pipe, params={}, name=f"runs/dog at step {options.step}", adapters={})
        return model, DrawingConfig(steps=1 + options.step // 400, height=16, width=16), {}

    options = SampleOptions(source="runs/dog", prompts=("a dog",), grid="seed=0,1 step=400,800,1200")
    draw_grid(options, ["a dog"], read_axes(options.grid), tmp_path / "grid.png", open_)
    assert asked == [400, 800, 1200]
    cells = json.loads((tmp_path / "grid.json").read_text())["cells"]
    assert {(cell["step"], cell["model"], cell["steps"]) for cell in cells} == {
        (step, f"runs/dog at step {step}", 1 + step // 400) for step in (400, 800, 1200)
    }


def test_ctrl_c_keeps_the_cells_that_are_made(tmp_path, monkeypatch, caplog):
    make, calls = Pipeline.__call__, []

    def make_two(self, prompts, **options):
        calls.append(prompts)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return make(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "__call__", make_two)
    with caplog.at_level("INFO"):
        assert call(tmp_path, "a dog", "--grid", "steps=1,2,3") == 130
    assert [cell["steps"] for cell in json.loads((tmp_path / "grid.json").read_text())["cells"]] == [1, 2]
    assert (tmp_path / "grid.png").exists()
    assert f"2 of 3 pictures are made; they are in {tmp_path / 'grid.png'}" in caplog.text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["a dog", "--grid", "stepps=1,2"], "unknown setting 'stepps'; did you mean steps?"),
        (["a dog", "a cat", "--grid", "steps=1,2"], "grid draws one prompt"),
        (["a dog", "--grid", "steps=1,2", "steps=3"], "steps is given beside the grid"),
        (["a dog", "--grid", "steps=1,2", "num_images=3"], "leave num_images out, or add seed=0,1,2 to it"),
        (["--grid", "steps=1,2"], "no prompt"),
        (["a dog", "--grid", "step=1,2"], "is no run folder"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path, capsys, options, line):
    assert call(tmp_path, *options) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]
