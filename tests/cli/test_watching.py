# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A preview that is written while pictures are made."""

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.cli.watching import Watcher, tiled
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.preview import linear_preview
from dreambooth_jax.pipeline.run import Step
from dreambooth_jax.progress import Progress
from dreambooth_jax.training.parallel import sharding
from tests.cli.test_like import MODEL


def test_a_preview_compiles_nothing_and_changes_nothing(tmp_path, monkeypatch, capsys):
    options = ["sample", MODEL, "a dog", "height=16", "width=16", "steps=3", "num_images=3"]
    assert main([*options, f"--out={tmp_path / 'plain'}"]) == 0
    before, seen = sharding._mapped._cache_size(), []
    write = Watcher._write

    def kept(self, picture, path):
        write(self, picture, path)
        with Image.open(path) as image:
            seen.append(np.asarray(image).copy())

    monkeypatch.setattr(Watcher, "_write", kept)
    preview = tmp_path / "new" / "look.png"
    assert main([*options, f"--out={tmp_path / 'seen'}", "--preview", str(preview), "progress=steps"]) == 0
    assert sharding._mapped._cache_size() == before
    assert len(seen) == 3, "one for each step"
    assert (seen[0] != seen[-1]).any()
    assert [path.name for path in preview.parent.iterdir()] == ["look.png"]
    for path in (tmp_path / "plain").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "seen" / path.name).read_bytes()
    assert "step 3 of 3" in capsys.readouterr().err
    seen.clear()
    assert main([*options[:5], f"--out={tmp_path / 'grid'}", f"preview={preview}", "--grid", "steps=1,3"]) == 0
    assert len(seen) == 1 + 3


def test_small_pictures_stand_beside_each_other():
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 3), np.uint8) + 1
    sheet = tiled(pictures)
    assert sheet.shape == (8 * 2 * 2, 8 * 3 * 3, 3)
    np.testing.assert_array_equal(sheet[::16, ::24, 0], [[1, 2, 3], [4, 5, 0]])
    assert tiled(np.zeros((1, 512, 512, 3), np.uint8)).shape == (512, 512, 3)


def test_the_bar_tells_steps(tmp_path):
    watcher = Watcher(None, linear_preview, steps=True)
    watcher(Step(1, 2, np.zeros((1, 2, 2, 4))))  # before there is a bar
    watcher.bar = Progress(total=1, disable=True)
    watcher(Step(2, 2, np.zeros((1, 2, 2, 4))))


@pytest.mark.parametrize(("name", "line"), [("look.gif", "must end in .png"), ("file/look.png", "cannot be written")])
def test_previews_that_cannot_be_written_are_one_line(tmp_path, name, line):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=line):
        Watcher(tmp_path / name, linear_preview, steps=False)(Step(1, 2, np.zeros((1, 2, 2, 4))))
