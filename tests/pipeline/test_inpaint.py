# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of inpainting and outpainting."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.inpaint import fills_masks
from dreambooth_jax.target import Target

MODEL = Path(__file__).parents[1] / "fixtures" / "legacy_flax_sd15"
PROMPT = "a photo of sks dog"
RUN = {"steps": 4, "strength": 1.0, "sampler": "euler_a", "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def pipe():
    return replace(load_pretrained(MODEL), target=Target.of(jax.devices()[:1]))


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def mask():
    """The left half."""
    mask = np.zeros((16, 24), np.uint8)
    mask[:, :12] = 255
    return mask


def test_what_is_not_masked_is_kept_bit_for_bit(pipe, picture, mask):
    found = pipe(PROMPT, image=picture, mask=mask, mask_blur=0, **RUN)[0]
    np.testing.assert_array_equal(found[:, 12:], picture[:, 12:])
    assert np.abs(found[:, :12].astype(int) - picture[:, :12]).mean() > 5
    soft = pipe(PROMPT, image=picture, mask=mask, mask_blur=2.0, **RUN)[0]
    np.testing.assert_array_equal(soft[:, 17:], picture[:, 17:])
    assert not np.array_equal(soft[:, 12:14], picture[:, 12:14])


def test_latents_outside_the_mask_are_the_pictures_own(pipe, picture, mask):
    """Whatever the sampler did: the last projection is to the clean level."""
    everything = np.ones_like(picture[..., 0])
    given = {"image": picture, "seed": 3, "output": "latents", "mask_blur": 0}
    halves = pipe(PROMPT, mask=mask, **given, **RUN)
    other = pipe("a cat", mask=mask, **given, **RUN | {"sampler": "dpmpp_2m", "steps": 3})
    np.testing.assert_array_equal(halves[:, :, 6:], other[:, :, 6:])
    assert np.abs(halves[:, :, :6] - other[:, :, :6]).max() > 1e-2
    free = pipe(PROMPT, mask=255 * everything, **given, **RUN)
    plain = pipe(
        PROMPT, seed=3, height=16, width=24, output="latents", **{k: v for k, v in RUN.items() if k != "strength"}
    )
    np.testing.assert_allclose(free, plain, atol=1e-5)


def test_a_picture_is_its_own_whatever_stands_beside_it(pipe, picture, mask):
    given = {"image": [picture, 255 - picture], "mask": [mask, 255 - mask], "mask_blur": 0}
    both = pipe([PROMPT, "a cat"], output="latents", seed=5, **given, **RUN)
    alone = pipe("a cat", image=255 - picture, mask=255 - mask, mask_blur=0, output="latents", seed=6, **RUN)
    np.testing.assert_allclose(alone[0], both[1], atol=1e-4)


def test_transparent_is_masked(pipe, picture, mask, tmp_path):
    Image.fromarray(np.dstack([picture, 255 - mask])).save(tmp_path / "hole.png")
    found = pipe(PROMPT, image=tmp_path / "hole.png", mask="alpha", mask_blur=0, **RUN)
    np.testing.assert_array_equal(found, pipe(PROMPT, image=picture, mask=mask, mask_blur=0, **RUN))


def test_only_the_masked_part_is_drawn(pipe):
    """The result has the picture's size, whatever the size of what is drawn; far from the mask it is the same bits."""
    large = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    mask = np.zeros((50, 70), bool)
    mask[20:26, 30:38] = True
    given = {"image": large, "mask": mask, "mask_blur": 1.0, "mask_padding": 4}
    found = pipe(PROMPT, height=16, width=16, **given, **RUN)[0]
    assert found.shape == large.shape
    changed = (found != large).any(-1)
    assert changed[20:26, 30:38].mean() > 0.9
    assert not changed[:16].any()
    assert not changed[30:].any()
    assert not changed[:, :26].any()
    assert not changed[:, 42:].any()


def test_outpainting_keeps_the_picture(pipe, picture):
    found = pipe(PROMPT, image=picture, outpaint_left=8, outpaint_bottom=4, mask_blur=0, **RUN)[0]
    assert found.shape == (20, 32, 3)
    np.testing.assert_array_equal(found[:16, 8:], picture)
    assert np.abs(found[:16, :8].astype(int) - picture[:, :1]).mean() > 5, "not the edge alone"


def test_an_outpainted_picture_is_drawn_from_noise_alone(pipe, picture):
    default = pipe(PROMPT, image=picture, outpaint_left=8, **RUN | {"strength": None})
    np.testing.assert_array_equal(default, pipe(PROMPT, image=picture, outpaint_left=8, **RUN))
    assert not fills_masks(pipe)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"mask": np.ones((4, 4))}, "image = None: must be given where there is a mask"),
        ({"outpaint_top": 8}, "image = None: must be given where there is a mask"),
        ({"image": np.ones((4, 4, 3)), "mask": np.ones((4, 6))}, "mask is 6x4, image is 4x4: they must have one size"),
        ({"image": np.ones((4, 4, 3)), "mask": np.zeros((4, 4))}, "mask is black"),
        ({"image": np.ones((4, 4, 3)), "mask": np.zeros((4, 4)), "mask_padding": 2}, "mask is black"),
        ({"image": np.ones((4, 4, 3)), "mask": "alpha"}, "mask is black"),
        ({"image": np.ones((4, 4, 3)), "mask": "nowhere.png"}, "nowhere.png: no such file"),
        ({"image": np.ones((4, 4, 3)), "mask": np.ones((4, 4), int)}, "mask is of int64"),
        ({"image": np.ones((4, 4, 3)), "mask": [np.ones((4, 4))] * 2}, "mask = '2 masks'"),
        ({"image": np.ones((4, 4, 3)), "outpaint_left": -1}, "outpaint_left = -1"),
        ({"image": np.ones((8, 4090, 3)), "outpaint_left": 16}, "image is 4106x8: give the width and height"),
    ],
)
def test_wrong_masks_are_named(untyped, pipe, arguments, named):
    with pytest.raises(InputError, match=f"^{named}"):
        pipe(PROMPT, **arguments)
