# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import numpy as np
from PIL import Image

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, labelled_grid, save_beside
from tests.prepare.fake import FakePipeline

SETTINGS = SampleSettings(
    prompts=["a sks dog", "a dog " * 30],
    num_images=3,
    seed=5,
    sampling=SamplingConfig(steps=7, height=16, width=24),
)


def test_picture_i_of_every_row_has_seed_plus_i():
    pipe = FakePipeline()
    rows = draw_rows(pipe, SETTINGS)
    assert [row.shape for row in rows] == [(3, 16, 24, 3)] * 2
    assert [call["seed"] for call in pipe.calls] == [[5, 6, 7]] * 2
    np.testing.assert_array_equal(rows[0], rows[1])


def test_every_picture_is_in_the_grid_unchanged():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    pictures = [np.full((32, 32, 3), colour, np.uint8) for colour in colours]
    sheet = labelled_grid([np.stack(pictures[:2]), np.stack(pictures[2:])], ["one", "two"], title="title")
    corners = []
    for colour in colours:
        where = np.argwhere((sheet == colour).all(axis=2))
        assert len(where) == 32 * 32
        corners.append(tuple(where.min(axis=0)))
    (y0, x0), (y1, x1), (y2, x2), (y3, x3) = corners
    assert y0 == y1 < y2 == y3
    assert x0 == x2 < x1 == x3
    assert (sheet[0] == 255).all()


def test_a_lower_grid_gets_paper_below(tmp_path):
    for name, height, colour in (("left", 4, 10), ("right", 6, 20)):
        Image.fromarray(np.full((height, 5, 3), colour, np.uint8)).save(tmp_path / f"{name}.png")
    save_beside(tmp_path / "both.png", tmp_path / "left.png", tmp_path / "right.png")
    found = np.asarray(Image.open(tmp_path / "both.png"))
    np.testing.assert_array_equal(found[..., 0], [[10] * 5 + [20] * 5] * 4 + [[255] * 5 + [20] * 5] * 2)
