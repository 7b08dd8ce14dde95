# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --queue``: files of prompts, one after the other, again and again."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.pipeline import Pipeline
from tests.cli.test_like import MODEL


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "dogs.txt").write_text("a dog\n\na dog on a beach\n")
    (folder / "cats.txt").write_text("a cat\n")
    (folder / "notes.md").write_text("no prompts")
    return folder


@pytest.fixture
def asked(monkeypatch):
    """Prompts of each call of the pipeline, and a way to be interrupted before a call."""
    make, calls, stop = Pipeline.__call__, [], []

    def counted(self, prompts, **options):
        if stop and len(calls) == stop[0]:
            signal.raise_signal(signal.SIGINT)
        calls.append(prompts[0])
        return make(self, prompts, **options)

    monkeypatch.setattr(Pipeline, "__call__", counted)
    counted.calls, counted.stop = calls, stop
    return counted


def call(tmp_path, *options):
    size = ["height=16", "width=16", "steps=1", "num_images=2"]
    return main(["sample", MODEL, f"--out={tmp_path / 'out'}", *size, *options])


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*-seed*.png")}


def test_each_file_has_a_folder_and_what_is_done_is_skipped(tmp_path, files, asked, capsys):
    assert call(tmp_path, "--queue", str(files)) == 0
    out = tmp_path / "out"
    assert asked.calls == ["a cat", "a dog", "a dog on a beach"]
    assert capsys.readouterr().out.split() == [str(out / name / "grid.png") for name in ("cats", "dogs")]
    assert set(pictures(out / "dogs")) == {f"00{row}-seed{seed}.png" for row in (0, 1) for seed in (0, 1)}
    (files / "birds.txt").write_text("a bird\n")
    assert call(tmp_path, "--queue", str(files)) == 0
    assert asked.calls[3:] == ["a bird"]


def test_what_was_interrupted_goes_on(tmp_path, files, asked):
    whole = tmp_path / "whole"
    assert call(tmp_path / "whole", "--queue", str(files)) == 0
    asked.calls.clear()
    asked.stop[:] = [2]
    assert call(tmp_path, "--queue", str(files)) == 130
    made = pictures(tmp_path / "out" / "dogs")
    assert set(made) == {"000-seed0.png", "000-seed1.png"}
    assert not (tmp_path / "out" / "dogs" / "grid.png").exists()
    asked.stop.clear()
    asked.calls.clear()
    assert call(tmp_path, "--queue", str(files)) == 0
    assert asked.calls == ["a dog on a beach"]
    for name in ("cats", "dogs"):
        found, expected = tmp_path / "out" / name, whole / "out" / name
        assert pictures(found) == pictures(expected)
        grids = (np.asarray(Image.open(folder / "grid.png")) for folder in (found, expected))
        np.testing.assert_array_equal(*grids)
    assert made.items() <= pictures(tmp_path / "out" / "dogs").items()


def test_changed_files_and_settings_begin_a_folder(tmp_path, files, asked):
    dogs = f"--queue={files / 'dogs.txt'}"
    for options in ([dogs], [dogs, "steps=2"], [dogs]):
        assert call(tmp_path, *options) == 0
    (files / "dogs.txt").write_text("a dog in the snow\n")
    assert call(tmp_path, dogs) == 0
    folders = sorted((tmp_path / "out").iterdir())
    assert [folder.name for folder in folders] == ["dogs", "dogs-2", "dogs-3"]
    assert [json.loads((folder / "job.json").read_text())["steps"] for folder in folders] == [1, 2, 1]
    assert len(asked.calls) == 5


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--queue", "nowhere.txt"], "queue: there is no nowhere.txt"),
        (["--queue", "{empty}"], "has no .txt files"),
        (["--queue", "{files}", "a dog"], "prompts and queue are both given"),
        (["--queue", "{files}/blank.txt"], "blank.txt has no prompt"),
    ],
)
def test_queues_that_cannot_be_are_one_line(tmp_path, files, capsys, options, line):
    (files / "blank.txt").write_text("\n \n")
    (tmp_path / "empty").mkdir()
    assert call(tmp_path, *(text.format(files=files, empty=tmp_path / "empty") for text in options)) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]
