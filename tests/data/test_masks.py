# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.data.masks import (
    Box,
    Sides,
    blurred,
    crop_region,
    extend,
    latent_mask,
    paste,
    read_masks,
    transparent,
)
from dreambooth_jax.data.pictures import read_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size


@pytest.fixture
def square():
    """Rows 8 to 15 and columns 10 to 21 of 32 x 48."""
    mask = np.zeros((32, 48), np.float32)
    mask[8:16, 10:22] = 1
    return mask


def test_every_kind_of_mask_is_the_same_mask(square, tmp_path):
    eight = (255 * square).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "grey.png")
    alpha = np.dstack([np.full((*square.shape, 3), 255, np.uint8), eight])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    sources = [square, square > 0, eight, Image.fromarray(eight), tmp_path / "grey.png", alpha, tmp_path / "alpha.png"]
    for source in sources:
        np.testing.assert_array_equal(read_masks(source), [square])
    np.testing.assert_array_equal(read_masks(np.stack([square, 1 - square])), [square, 1 - square])
    with pytest.raises(InputError, match="^mask has values from 0 to 7"):
        read_masks(7 * square)


def test_what_is_transparent_is_masked(square, tmp_path):
    """With its colours as they are stored, not those of a background."""
    colours = np.random.default_rng(0).integers(0, 256, (*square.shape, 3), np.uint8)
    Image.fromarray(np.dstack([colours, (255 * (1 - square)).astype(np.uint8)])).save(tmp_path / "hole.png")
    picture, mask = transparent(read_picture(tmp_path / "hole.png", alpha=True))
    np.testing.assert_array_equal(mask, square)
    np.testing.assert_array_equal(np.rint(255 * picture), colours)


def test_room_around_a_picture_is_masked(square):
    picture = np.random.default_rng(0).uniform(size=(*square.shape, 3)).astype(np.float32)
    wide, mask = extend(picture, square, Sides(left=3, top=1, right=5, bottom=0))
    assert wide.shape == (33, 56, 3)
    np.testing.assert_array_equal(wide[1:, 3:51], picture)
    np.testing.assert_array_equal(mask[1:, 3:51], square)
    assert (mask[0] == 1).all()
    assert (mask[:, :3] == 1).all()
    assert (mask[:, 51:] == 1).all()
    np.testing.assert_array_equal(wide[1:, :3], np.repeat(picture[:, :1], 3, axis=1))


def test_the_region_around_a_mask(square):
    assert crop_region(square, padding=0, aspect=Size(8, 12)) == Box(10, 8, 22, 16)
    assert crop_region(square, padding=2, aspect=Size(12, 16)) == Box(8, 6, 24, 18)
    assert crop_region(square, padding=0, aspect=Size(1, 1)) == Box(10, 6, 22, 18)
    assert crop_region(square, padding=9, aspect=Size(1, 1)) == Box(1, 0, 31, 30), "moved to where there is room"
    assert crop_region(square, padding=100, aspect=Size(1, 1)) == Box(0, 0, 48, 32), "all there is"
    with pytest.raises(InputError, match="^mask is black"):
        crop_region(0 * square, padding=0, aspect=Size(1, 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_region_holds_all_that_is_masked(seed):
    r = np.random.default_rng(seed)
    mask = (r.uniform(size=(40, 30)) > 0.995).astype(np.float32)
    mask[20, 15] = 1
    aspect = Size(*map(int, r.integers(1, 9, 2)))
    box = crop_region(mask, padding=2, aspect=aspect)
    assert mask[box.top : box.bottom, box.left : box.right].sum() == mask.sum()
    assert 0 <= box.left < box.right <= 30
    assert 0 <= box.top < box.bottom <= 40
    room = box.size.height < 40 and box.size.width < 30
    assert not room or abs(box.size.width - box.size.height * aspect.width / aspect.height) <= max(
        1, aspect.width / aspect.height
    )


def test_a_latent_is_drawn_anew_where_half_of_it_is_masked():
    mask = np.zeros((4, 6), np.float32)
    mask[0, 0] = 1  # a quarter of a latent, but its upper left pixel
    mask[2:, 3] = 1  # half of another, but not that pixel
    np.testing.assert_array_equal(latent_mask(mask, 2), [[0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(latent_mask(mask, 2, nearest=True), [[1, 0, 0], [0, 0, 0]])


def test_soft_edges_keep_what_is_far_from_them_bit_for_bit(square):
    soft = blurred(square, 1.0)
    assert soft.max() <= 1
    np.testing.assert_allclose(soft.sum(), square.sum(), rtol=1e-5)
    np.testing.assert_array_equal(blurred(square, 0.0), square)
    picture, new = np.random.default_rng(0).uniform(size=(2, *square.shape, 3)).astype(np.float32)
    pasted = paste(picture, new, soft)
    np.testing.assert_array_equal(pasted[:5], picture[:5])
    np.testing.assert_array_equal(pasted[11:13, 13:19], new[11:13, 13:19])
    between = (soft > 0) & (soft < 1)
    assert ((pasted - picture) * (pasted - new) <= 1e-9)[between].all()
