# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Views of a photo: which part they are, and that resampling neither distorts nor aliases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dreambooth_jax.data import images
from dreambooth_jax.size import Size
from tests.data.pictures import noise


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize(("share", "start"), [(0.0, 0), (0.5, 20), (1.0, 40)])
def test_a_view_is_that_square_of_the_photo(turn, share, start):
    """Resampling straight from a square equals cutting it out first, but for the kernel's reach at the edges."""
    photo = noise(3, 80, 40)
    box = (start, 0, start + 40, 40)
    if turn:
        photo, box = noise(3, 40, 80), (0, start, 40, start + 40)
    square = images.crop_resize(photo, size=Size(16, 16), view=images.View(x=share, y=share)).astype(int)
    cut = images.crop_resize(photo.crop(box), size=Size(16, 16)).astype(int)
    np.testing.assert_allclose(square[3:-3, 3:-3], cut[3:-3, 3:-3], atol=1, rtol=0)
    np.testing.assert_allclose(square, cut, atol=3, rtol=0)


@pytest.mark.parametrize("setting", ["24x16", "16x24", "48x16"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_view_that_is_no_square_is_the_largest_part_of_its_aspect(setting, share):
    size = Size.parse(setting)
    photo = noise(3, 96, 72)
    scale = min(96 / size.width, 72 / size.height)
    width, height = round(scale * size.width), round(scale * size.height)
    assert width * size.height == height * size.width
    left, top = round(share * (96 - width)), round(share * (72 - height))
    part = images.crop_resize(photo, size=size, view=images.View(x=share, y=share)).astype(int)
    cut = images.crop_resize(photo.crop((left, top, left + width, top + height)), size=size).astype(int)
    assert part.shape == (*size, 3)
    np.testing.assert_allclose(part[3:-3, 3:-3], cut[3:-3, 3:-3], atol=1, rtol=0)


@given(st.integers(1, 200), st.integers(1, 200), st.floats(0.85, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_squares_are_cut_as_they_always_were(width, height, share, x, y):
    """Bit for bit, so that what earlier runs cached is what they would see now."""
    photo = noise(width, width, height)
    side = share * min(photo.size)
    left, top = x * (width - side), y * (height - side)
    box = (left, top, min(left + side, width), min(top + side, height))
    expected = np.asarray(photo.resize((16, 16), Image.Resampling.LANCZOS, box=box))
    view = images.View(side=share, x=x, y=y)
    np.testing.assert_array_equal(images.crop_resize(photo, size=Size(16, 16), view=view), expected)


@pytest.mark.parametrize("size", [(64, 64), (90, 64), (64, 90)])
def test_flip_mirrors_the_view(size):
    photo = noise(4, *size)
    flipped = images.crop_resize(photo, size=Size(32, 32), view=images.View(flip=True))
    np.testing.assert_array_equal(flipped, images.crop_resize(photo, size=Size(32, 32))[:, ::-1])
    np.testing.assert_array_equal(flipped, images.crop_resize(ImageOps.mirror(photo), size=Size(32, 32)))


def test_the_aspect_is_kept():
    """A disc in a wide photo stays a disc."""
    y, x = np.mgrid[:128, :256]
    disc = (np.hypot(x - 127.5, y - 63.5) < 40).astype(np.uint8) * 255
    square = images.crop_resize(Image.fromarray(disc).convert("RGB"), size=Size(64, 64))[..., 0]
    inside = square > 127
    assert inside.any(0).sum() == inside.any(1).sum() == 40
    assert abs((square / 255).sum() - np.pi * 20**2) < 5
    wide = images.crop_resize(Image.fromarray(disc).convert("RGB"), size=Size(64, 96))[..., 0] > 127
    assert wide.any(0).sum() == wide.any(1).sum() == 40


def test_reducing_does_not_alias():
    """Stripes one pixel wide become grey."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = images.crop_resize(Image.fromarray(stripes), size=Size(50, 50))[3:-3, 3:-3].astype(int)
    assert np.abs(inner - 127.5).max() < 8


@pytest.mark.parametrize(("crop", "flip", "count"), [("center", False, 1), ("center", True, 2), ("random", True, 8)])
def test_the_list_of_views(crop, flip, count):
    chosen = images.views(crop, flip=flip, digest="ab", seed=0)
    assert len(set(chosen)) == count
    assert sum(view.flip for view in chosen) == (count // 2 if flip else 0)
    assert chosen == images.views(crop, flip=flip, digest="ab", seed=0)
    if crop == "center":
        assert chosen[0] == images.CENTER


@given(st.text("0123456789abcdef", max_size=8), st.integers(), *[st.integers(1, 200)] * 2, *[st.integers(1, 20)] * 2)
@settings(max_examples=40, deadline=None)
def test_random_views_fit_in_any_photo(digest, seed, width, height, rows, columns):
    photo = Image.new("RGB", (width, height), (9, 8, 7))
    for view in images.views("random", flip=False, digest=digest, seed=seed):
        assert (images.crop_resize(photo, size=Size(rows, columns), view=view) == (9, 8, 7)).all()
        assert images.MIN_SIDE <= view.side <= 1


def test_random_views_depend_on_photo_and_seed():
    lists = {images.views("random", flip=False, digest=d, seed=s) for d in ("a", "b") for s in (0, 1)}
    assert len(lists) == 4


def test_to_float_spans_minus_one_to_one():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    floats = images.to_float(levels)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(np.rint((floats + 1) * 127.5).astype(np.uint8), levels)


def test_colours_of_views_are_mild_and_the_first_has_its_own():
    for crop in ("center", "random"):
        plain = images.views(crop, flip=False, digest="ab", seed=0)
        chosen = images.views(crop, flip=True, digest="ab", seed=0, colour=0.2)
        assert len(set(chosen)) == len(chosen) == 8
        assert chosen[0] == plain[0]
        assert [(one.side, one.x, one.y) for one in chosen[:4]] == [
            (one.side, one.x, one.y) for one in plain * (4 // len(plain))
        ]
        factors = np.array([one.colour for one in chosen[1:4]])
        assert 0.8 <= factors.min() < factors.max() <= 1.2
        assert [one.colour for one in chosen[4:]] == [one.colour for one in chosen[:4]]
    assert images.views("center", flip=True, digest="ab", seed=0) == (images.CENTER, images.View(flip=True))


def test_brightness_contrast_and_saturation_are_what_they_are_called():
    photo = noise(5, 32, 32)
    size = Size(16, 16)
    plain = images.crop_resize(photo, size=size).astype(float)
    darker = images.crop_resize(photo, size=size, view=images.View(colour=(0.5, 1.0, 1.0))).astype(float)
    np.testing.assert_allclose(darker, plain / 2, atol=1)
    flatter = images.crop_resize(photo, size=size, view=images.View(colour=(1.0, 0.5, 1.0))).astype(float)
    assert flatter.std() == pytest.approx(plain.std() / 2, rel=0.05)
    grey = images.crop_resize(photo, size=size, view=images.View(colour=(1.0, 1.0, 0.0))).astype(float)
    assert (np.ptp(grey, axis=-1) <= 1).all()


@given(
    st.integers(30, 200),
    st.integers(30, 200),
    st.sampled_from(["32", "48x32", "32x48"]),
    st.floats(0.85, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_what_is_told_of_a_view_is_where_it_lies(width, height, setting, side, x, y, flip):
    """In the photo as much smaller as the view is, mirrored where the view is, top and left are its corner."""
    size, view = Size.parse(setting), images.View(side=side, x=x, y=y, flip=flip)
    full_height, full_width, top, left, *target = images.told_sizes(Size(height, width), size=size, view=view)
    assert (full_height, full_width, *target) == (height, width, *size)
    scale = size.width / (side * min(width, height * size.width / size.height))
    box = (left / scale, top / scale, (left + size.width) / scale, (top + size.height) / scale)
    assert box[2] <= width + 1 / scale
    assert box[3] <= height + 1 / scale
    exact = images.rectangle(Size(height, width), size=size, view=view)
    of_view = width - exact[0] - exact[2] if flip else exact[0]
    assert abs(box[0] - of_view) <= 0.51 / scale
    assert abs(box[1] - exact[1]) <= 0.51 / scale


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64)])
def test_what_is_told_of_the_middle_is_what_diffusers_tells(width, height):
    """Their script makes the shorter side the resolution and cuts a square out of the middle."""
    resolution = 32
    wide, tall = (round(side * resolution / min(width, height)) for side in (width, height))
    top, left = round((tall - resolution) / 2), round((wide - resolution) / 2)
    told = images.told_sizes(Size(height, width), size=Size(resolution, resolution), view=images.CENTER)
    assert told == (height, width, top, left, resolution, resolution)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_size_of_a_file_is_that_of_the_upright_photo(tmp_path, orientation):
    """Also where it is decoded at a part of its size."""
    exif = Image.Exif()
    exif[274] = orientation
    noise(0, 640, 480).save(tmp_path / "photo.jpg", exif=exif)
    assert images.full_size(tmp_path / "photo.jpg") == (Size(480, 640) if orientation == 1 else Size(640, 480))
    assert images.full_size((tmp_path / "photo.jpg").read_bytes()) == images.full_size(tmp_path / "photo.jpg")
    assert images.decode(tmp_path / "photo.jpg", at_least=16).size != images.full_size(tmp_path / "photo.jpg")[::-1]
