# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which generated pictures are not worth training on: empty ones, and ones that are there already.

A safety filter, or a decoder that overflowed, leaves a picture of one colour. A duplicate is the same picture, perhaps
saved once more by a lossy format. Both thresholds are in grey levels of 255 and far below what two pictures of the same
class differ by.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FLAT = 2.0
SAME = 2.0
SIDE = 8

Signature = UInt8[np.ndarray, "8 8 3"]


def is_black(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether a picture is black or any other single colour: no channel's standard deviation reaches 2 levels."""
    return bool(image.std(axis=(0, 1)).max() < FLAT)


def signature(image: UInt8[np.ndarray, "h w 3"]) -> Signature:
    """The picture at 8 x 8 pixels, each the mean of its tile."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))


def is_duplicate(a: Signature, b: Signature) -> bool:
    """Whether two signatures are of the same picture: their root mean square difference is at most 2 levels."""
    return bool(np.sqrt(np.mean((a.astype(np.float32) - b) ** 2)) <= SAME)
