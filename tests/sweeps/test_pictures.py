# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The picture of all members, which nobody has trained: each of its parts says what it was drawn with."""

import json
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.members.axes import Axis, Choice
from dreambooth_jax.members.expand import expand
from dreambooth_jax.sweeps import pictures
from dreambooth_jax.sweeps.sweep import Sweep, axis_names
from tests.sweeps.folders import BASE, finish

OWN = {
    "rex": (["a {identifier} in snow", "b"], 0, 2),
    "tom": (["a {identifier} at the beach", "b"], 1, 3),
    "ada": (["b", "a {identifier} in snow"], 0, 1),
}
"""Of each member its prompts, its first seed, and how many."""


def colour(prompt, seed):
    return [zlib.crc32(f"{prompt} {seed}".encode()) >> shift & 255 for shift in (0, 8, 16)]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    choices = [
        Choice(
            name, (f"samples.prompts={json.dumps(templates)}", f"samples.seed={seed}", f"samples.num_images={count}")
        )
        for name, (templates, seed, count) in OWN.items()
    ]
    axes = [Axis("subject", tuple(choices))]
    members, cells = expand([*BASE, "--samples.every=1"], axes, folder=tmp_path, within="subjects")
    made = Sweep(folder=tmp_path, within="subjects", axes=axis_names(axes), cells=cells)
    made.write(members)
    for member in members:
        finish(member, loss=1.0)

    def draw_cells(pipe, cells, settings, **options):
        for cell in cells:
            told = cell.told.get("seed", settings.seed)
            yield cell, np.full((16, 16, 3), colour(cell.told["prompt"], told), np.uint8)

    monkeypatch.setattr(pictures, "open_model", lambda source: SimpleNamespace(pipe=None, params=None, name=source))
    monkeypatch.setattr(pictures, "settled", lambda pipe, sampling, given: sampling)
    monkeypatch.setattr(pictures, "pictures_at_once", lambda *args, **options: 1)
    monkeypatch.setattr(pictures, "draw_cells", draw_cells)
    return made


def test_each_picture_stands_under_its_own_prompt_and_seed(sweep, monkeypatch):
    shown = {}
    draw = pictures.labelled_matrix

    def labelled_matrix(found, axes, **options):
        shown.update(found=found, axes=axes, **options)
        return draw(found, axes, **options)

    monkeypatch.setattr(pictures, "labelled_matrix", labelled_matrix)
    file = pictures.draw_sheet(sweep, sweep.cells, sweep.folder / "grid.png")
    _, across, blocks = shown["axes"]
    assert blocks.texts == ("a sks in snow", "b", "a sks at the beach")
    assert across.texts == tuple(f"samples.seed={seed}" for seed in range(4))
    assert shown["rows_of"] == [[0, 2], [0, 1, 2], [1]]
    words = Subject(identifier="sks", class_noun="dog")
    expected = {
        (row, seed, blocks.texts.index(words.fill(template)))
        for row, (templates, first, count) in enumerate(OWN.values())
        for template in templates
        for seed in range(first, first + count)
    }
    assert shown["found"].keys() == expected
    for (_, seed, block), picture in shown["found"].items():
        assert picture[0, 0].tolist() == colour(blocks.texts[block], seed)
    assert file == sweep.folder / "grid.png"


def test_a_block_has_the_rows_that_it_is_told(sweep):
    """A picture's colour is nowhere but in its block, and rows that are left out take no room."""
    some = pictures.draw_sheet(sweep, sweep.cells[:1], sweep.folder / "grid.png")
    with Image.open(some) as sheet:
        seen = np.asarray(sheet).reshape(-1, 3)
    for prompt in ("a sks in snow", "b"):
        for seed in (0, 1):
            assert (seen == colour(prompt, seed)).all(1).sum() == 256
    assert not pictures.draw_sheet(sweep, (), sweep.folder / "none.png")
