# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Combinations of settings, and the sheet that shows them."""

import numpy as np
import pytest
from PIL import ImageFont

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.axes import Axis, cells_of, read_axes
from dreambooth_jax.evaluation.matrix import MatrixSettings, draw_cells, labelled_matrix
from tests.prepare.fake import FakePipeline


def test_settings_with_several_values():
    steps, guidance, sampler = read_axes('steps=30,50 guidance=6,7.5 sampler="DPM++ 2M Karras,Euler a"')
    assert (steps.key, steps.values, steps.label(1)) == ("steps", (30, 50), "steps=50")
    assert (guidance.key, guidance.values, guidance.label(0)) == ("guidance_scale", (6, 7.5), "guidance=6")
    assert (sampler.values, sampler.label(0)) == (("DPM++ 2M Karras", "Euler a"), "sampler=DPM++ 2M Karras")
    (prompt,) = read_axes("prompt='a dog, running;a cat'")
    assert (prompt.values, prompt.label(0)) == (("a dog, running", "a cat"), "a dog, running")
    assert [axis.values for axis in read_axes("step=400,800 profile=a1111,comfy fixed_steps=true,false")] == [
        *((400, 800), ("a1111", "comfy"), (True, False)),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("stepps=1,2", "unknown setting 'stepps'; did you mean steps?"),
        ("guidence=1", "unknown setting 'guidence'; did you mean guidance?"),
        ("steps=30,0", "steps = 0: must be at least 1 and at most 10000"),
        ("steps=30,many", "steps = 'many': must be a whole number"),
        ("sampler=euler,restart", "sampler = 'restart': must be one of"),
        ("profile=invoke", "profile = 'invoke': choose one of diffusers, a1111, comfy"),
        ("seed=1,-1", "seed = -1: must be a whole number"),
        ("step=1.5", "step = 1.5: must be a whole number"),
        ("steps=", "'steps=' is no setting with values"),
        ("steps", "'steps' is no setting with values"),
        ("", "grid has 0 settings"),
        ("steps=1 steps=2", "grid has 2 settings (steps, steps): write one to 3 different settings"),
        ("guidance=1 cfg=2", "different settings"),
        ("steps=1 eta=1 gamma=1 seed=1", "grid has 4 settings"),
        ("steps=1 'eta=1", "No closing quotation"),
        ("seed=" + ",".join(map(str, range(2000))), "grid asks for 2000 pictures: 1024 are the most"),
        ("steps=" + "9" * 5000, "steps"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(text, line):
    with pytest.raises(InputError, match="grid") as raised:
        read_axes(text)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_pictures_of_one_model_follow_each_other():
    cells = cells_of(read_axes("steps=1,2 model=a,b seed=5,6"))
    assert [cell.told["model"] for cell in cells] == ["a"] * 4 + ["b"] * 4
    assert len({cell.place for cell in cells}) == 8


def settings(**sampling):
    return MatrixSettings(prompt="a dog", seed=3, sampling=DrawingConfig(height=16, width=24, **sampling), given={})


def test_each_cell_is_the_picture_of_its_settings():
    pipe = FakePipeline()
    cells = cells_of(read_axes("steps=4,5 prompt='a cat;a dog;a cow' guidance=1,2"))
    found = {cell.place: picture for cell, picture in draw_cells(pipe, cells, settings(), at_once=2, params={})}
    assert {len(call["seed"]) for call in pipe.calls} == {2}, "one size is one program"
    for place, picture in found.items():
        sampling = DrawingConfig(steps=(4, 5)[place[0]], guidance_scale=(1.0, 2.0)[place[2]], height=16, width=24)
        prompt = ("a cat", "a dog", "a cow")[place[1]]
        np.testing.assert_array_equal(picture, FakePipeline()([prompt], seed=[3], sampling=sampling)[0])


def test_what_a_sampler_does_not_have_is_left_out():
    base = settings(eta=0.5)
    euler, ddim = cells_of(read_axes("sampler=euler,ddim"))
    assert base.of(euler).eta == 0
    assert base.of(ddim).eta == 0.5


@pytest.mark.parametrize("text", ["steps=1,2,3", "steps=1,2 guidance=6,7,8", "steps=1,2 guidance=6,7,8 seed=1,2"])
def test_every_picture_stands_in_the_sheet_where_it_belongs(text):
    """Pictures of one colour each, which no letter has, are found in rows and columns in their order."""
    axes = read_axes(text)
    shape = tuple(len(axis.values) for axis in axes)
    pictures = {}
    for number, cell in enumerate(cells_of(axes)):
        pictures[cell.place] = np.full((20, 30, 3), (200, 10, 5 * number + 10), np.uint8)
    sheet = labelled_matrix(pictures, axes, title="a title " * 30)
    places = {}
    for place, picture in pictures.items():
        y, x = np.nonzero((sheet == picture[0, 0]).all(-1))
        assert (np.ptp(y) + 1, np.ptp(x) + 1, len(y)) == (20, 30, 600)
        places[place] = (y.min(), x.min())
    for place, (y, x) in places.items():
        for axis in range(len(shape)):
            after = tuple(n + (i == axis) for i, n in enumerate(place))
            if after in places:
                down = {1: (False,), 2: (True, False), 3: (True, False, True)}[len(shape)][axis]
                assert (places[after][0] > y) == down
                assert (places[after][1] > x) == (not down)


def test_pictures_of_other_sizes_have_room():
    axes = read_axes("width=16,32")
    pictures = {(0,): np.full((8, 16, 3), 9, np.uint8), (1,): np.full((16, 32, 3), 7, np.uint8)}
    sheet = labelled_matrix(pictures, axes, title="")
    assert (sheet == 9).all(-1).sum() == 8 * 16
    assert (sheet == 7).all(-1).sum() == 16 * 32


def test_words_above_a_column_are_whole():
    """Small pictures stand as far apart as the words above them ask for, as long as these are no novel."""
    picture = np.full((16, 16, 3), 9, np.uint8)

    def apart(*samplers):
        axis = Axis("sampler", "sampler", samplers, samplers)
        sheet = labelled_matrix({(0,): picture, (1,): picture}, [axis], title="")
        columns = np.nonzero((sheet == 9).all(-1).any(0))[0]
        return columns.max() - columns.min() + 1 - 16

    word = "a_name_of_thirty_letters_or_so"
    assert apart(word, "b") > ImageFont.load_default(11).getlength(f"sampler={word}") > apart("a", "b")
    assert apart("a " * 60, "b") == apart("a", "b"), "words of a text go below each other"
    assert apart("a" * 4000, "b") < 1000
