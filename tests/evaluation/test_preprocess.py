# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Preprocessing against the processors of transformers, bit for bit, and against torchvision's steps written out."""

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.evaluation.preprocess import IMAGENET, for_clip, for_dino, for_dinov2

SIZES = [(300, 401), (401, 300), (224, 224), (64, 64), (257, 1000), (31, 45), (513, 512)]


def picture(size):
    return np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), dtype=np.uint8)


def theirs(name, **options):
    pytest.importorskip("torch")
    module = pytest.importorskip(f"transformers.models.{name}.image_processing_pil_{name}")
    kinds = {"bit": "BitImageProcessorPil", "clip": "CLIPImageProcessorPil"}
    return getattr(module, kinds[name])(**options)


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_clip_bit_for_bit(size):
    for side in (224, 336):
        options = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        expected = theirs("clip", **options)(Image.fromarray(picture(size)), return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(for_clip(side)([picture(size)]), np.moveaxis(expected, 1, 3))


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_dinov2_bit_for_bit(size):
    mean, deviation = map(list, IMAGENET)  # its preprocessor_config.json
    own = theirs("bit", size={"shortest_edge": 256}, image_mean=mean, image_std=deviation)
    expected = own(Image.fromarray(picture(size)), return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(for_dinov2()([picture(size)]), np.moveaxis(expected, 1, 3))


@pytest.mark.parity
@pytest.mark.parametrize("size", SIZES)
def test_dino_as_torchvisions_transforms(size):
    """Resize(256, BICUBIC), CenterCrop(224), ToTensor, Normalize, as they compute; all of its steps are in float32."""
    torch = pytest.importorskip("torch")
    image = Image.fromarray(picture(size))
    width, height = image.size
    short, long = sorted(image.size)
    long = int(256 * long / short)
    image = image.resize((256, long) if width <= height else (long, 256), Image.Resampling.BICUBIC)
    left, top = (round((side - 224) / 2.0) for side in image.size)
    image = image.crop((left, top, left + 224, top + 224))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, deviation = (torch.tensor(numbers)[:, None, None] for numbers in IMAGENET)
    expected = tensor.sub_(mean).div_(deviation).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(for_dino()([picture(size)])[0], expected)


def test_pictures_of_several_sizes_become_one_batch():
    assert for_clip(32)([picture((40, 50)), picture((90, 33))]).shape == (2, 32, 32, 3)
