# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The gallery of the documentation is what its script draws."""

import shlex
from pathlib import Path

import gallery
import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli.parsing import read_call
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.evaluation.axes import cells_of, read_axes

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_the_scripts():
    assert (DOCS / "gallery.md").read_text() == gallery.page()


@pytest.mark.parametrize("sheet", gallery.SHEETS, ids=lambda sheet: sheet.name)
def test_each_command_is_understood_and_its_picture_is_there(sheet):
    verb, *words = shlex.split(sheet.command)
    call = read_call(VERBS[verb], words)
    cells = cells_of(read_axes(call.settings.grid))
    file = DOCS / "gallery" / f"{sheet.name}.png"
    assert file.stat().st_size <= gallery.LARGEST
    with Image.open(file) as image:
        assert image.width * image.height > 64 * 64 * len(cells)


def test_the_mask_is_around_the_subject(tmp_path):
    gallery.draw_sources(tmp_path)
    for name in ("subject.png", "mask.png"):
        drawn, published = (np.asarray(Image.open(folder / name)) for folder in (tmp_path, DOCS / "gallery"))
        np.testing.assert_array_equal(drawn, published)
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask[0].all()
    assert not mask[32, 32]
