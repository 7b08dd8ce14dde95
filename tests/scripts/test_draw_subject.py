# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The shipped subject: what the script draws, small files, captions that the embedded model can read."""

from pathlib import Path

import draw_subject
import numpy as np
import pytest
from embedded.scenes import GROUNDS
from PIL import Image

from dreambooth_jax.evaluation.drawn_scenes import border_colour, nearest_background, said_background

SHIPPED = Path(__file__).parents[2] / "dreambooth_jax" / "embedded" / "subject"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subject")
    draw_subject.main(folder)
    return folder


def pictures(folder):
    return [np.asarray(Image.open(file).convert("RGB"), np.float32) for file in sorted(folder.glob("*.png"))]


def test_what_is_shipped_is_what_is_drawn(drawn):
    assert sorted(p.name for p in SHIPPED.iterdir()) == sorted(p.name for p in drawn.iterdir())
    for ours, shipped in zip(pictures(drawn), pictures(SHIPPED), strict=True):
        assert np.abs(ours - shipped).mean() < 2  # versions of pillow round and choose palettes differently
    for file in drawn.glob("*.txt"):
        assert file.read_text() == (SHIPPED / file.name).read_text()


def test_five_small_square_pictures(drawn):
    assert [p.shape for p in pictures(drawn)] == [(256, 256, 3)] * 5
    assert all(file.stat().st_size <= 30_000 for file in drawn.glob("*.png"))


def test_captions_are_true_and_in_the_grammar(drawn):
    for file, picture in zip(sorted(drawn.glob("*.txt")), pictures(drawn)):
        caption = file.read_text().strip()
        assert caption.startswith("a {identifier} {class_noun} ")
        colour = said_background(caption)
        assert colour == nearest_background(border_colour(picture)) if colour else caption.endswith(tuple(GROUNDS))


def test_the_creature_stands_whole_before_its_scenes():
    alpha = np.asarray(draw_subject.creature(200, 0.5))[..., 3]
    assert 0.3 < (alpha > 0).mean() < 0.6
    assert not alpha[0].any()
    assert not alpha[-1].any()
