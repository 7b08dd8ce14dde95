# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.evaluation.drawing import PictureFolder, draw_batches
from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, save_grid
from tests.prepare.fake import FakePipeline


def settings(num_images=5, **sampling):
    sampling = SamplingConfig(**{"steps": 7, "height": 16, "width": 24} | sampling)
    return SampleSettings(prompts=["a sks dog", "a dog 😀 " * 30], num_images=num_images, seed=5, sampling=sampling)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 8])
def test_batches_of_any_size_are_the_same_pictures(at_once):
    pipe = FakePipeline()
    batches = list(draw_batches(pipe, settings(), at_once=at_once))
    for row, expected in enumerate(draw_rows(FakePipeline(), settings())):
        found = [batch for batch in batches if batch.row == row]
        assert [seed for batch in found for seed in batch.seeds] == [5, 6, 7, 8, 9]
        np.testing.assert_array_equal(np.concatenate([batch.pictures for batch in found]), expected)
    sizes = {len(call["seed"]) for call in pipe.calls}
    assert sizes == {min(at_once, 5)}, "one size is one program"


def test_what_is_made_is_given_before_the_next_is_begun():
    pipe = FakePipeline()
    batches = draw_batches(pipe, settings(), at_once=2)
    for made in range(1, 4):
        next(batches)
        assert len(pipe.calls) == made


def save_all(folder, what):
    folder = PictureFolder(folder)
    batches = list(draw_batches(FakePipeline(), what, at_once=2))
    paths = [path for batch in batches for path in folder.save(batch, what, model="the model")]
    save_grid(folder.grid, draw_rows(FakePipeline(), what), what, title="x")
    return folder.grid, paths


def test_files_say_how_they_were_made(tmp_path):
    grid, paths = save_all(tmp_path, settings())
    assert grid == tmp_path / "grid.png"
    assert [path.name for path in paths[:2]] == ["000-seed5.png", "000-seed6.png"]
    with Image.open(paths[1]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_rows(FakePipeline(), settings())[0][1])
        expected = {
            "prompt": "a sks dog",
            "seed": 6,
            "steps": 7,
            "guidance_scale": 7.5,
            "sampler": "ddim",
            "model": "the model",
            "batch": 2,
            "position": 1,
        }
        assert expected.items() <= json.loads(picture.text["dreambooth_jax"]).items()
        line = "Steps: 7, Sampler: DDIM, CFG scale: 7.5, Seed: 6, Size: 24x16, Model: the model, RNG: JAX, Version: "
        assert picture.text["parameters"].splitlines()[-1].startswith(line)
    with Image.open(paths[-1]) as picture:
        assert json.loads(picture.text["dreambooth_jax"])["prompt"] == "a dog 😀 " * 30
    assert not list(tmp_path.glob(".*")), "nothing unfinished is left"


def test_calls_add_to_a_folder_and_write_over_nothing(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"not a picture")
    seen = {}
    for number in range(3):
        grid, paths = save_all(tmp_path, settings())
        assert grid.name == ("grid.png", "grid-2.png", "grid-3.png")[number]
        assert {path.name[:3] for path in paths} == {f"{2 * number:03d}", f"{2 * number + 1:03d}"}
        assert not {grid, *paths} & seen.keys()
        assert all(path.read_bytes() == content for path, content in seen.items())
        seen |= {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(seen) == 1 + 3 * (1 + 2 * 5)
