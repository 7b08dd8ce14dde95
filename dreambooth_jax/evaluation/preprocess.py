# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures as vision towers want them: each as the code that its published scores come from prepares it.

Scores depend on this: another filter or crop alone moves CLIP-I by some hundredths. All resize the shorter side with
Pillow's bicubic filter, which looks at more pixels the more it shrinks, cut a square out of the middle, subtract a mean
of each colour and divide by a deviation.

| tower  | shorter side | square | of two middles | mean and deviation | as in |
|--------|--------------|--------|----------------|--------------------|-------|
| DINO   | 256 | 224 | the even one | ImageNet's | torchvision's Resize, CenterCrop (eval_knn.py of DINO) |
| DINOv2 | 256 | 224 | the first    | ImageNet's | transformers' BitImageProcessor |
| CLIP   | 224 | 224 | the first    | CLIP's     | transformers' CLIPImageProcessor |
| LPIPS  | as it is | | | none: in [-1, 1] | the package lpips |
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Preprocessing(NamedTuple):
    """What is done to a picture.

    Attributes:
        shorter: pixels that its shorter side is resized to.
        square: pixels of the side of the square that is cut out of its middle.
        mean, deviation: of each colour, in [0, 1]: subtracted, and divided by.
        middle: (side, square) -> where the square begins.
    """

    shorter: int
    square: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    middle: Callable[[int, int], int]

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n side side 3"]:
        """Pictures of any sizes."""
        return np.stack([self.one(picture) for picture in pictures])

    def one(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "side side 3"]:
        """One of them."""
        image = Image.fromarray(picture).resize(self.resized(picture.shape[:2]), Image.Resampling.BICUBIC)
        left, top = (self.middle(side, self.square) for side in image.size)
        pixels = np.asarray(image)[top : top + self.square, left : left + self.square]
        scaled = (pixels * (1 / 255)).astype(np.float32)
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.deviation, np.float32)

    def resized(self, size: Sequence[int]) -> tuple[int, int]:
        """(width, height) of a picture of (height, width) when its shorter side is resized."""
        short = min(size)
        height, width = (self.shorter if side == short else int(self.shorter * side / short) for side in size)
        return width, height


def even(side: int, square: int) -> int:
    """Where torchvision's CenterCrop begins: Python rounds halves to even."""
    return round((side - square) / 2)


def first(side: int, square: int) -> int:
    """Where transformers' begins."""
    return (side - square) // 2


def for_dino() -> Preprocessing:
    """Of DINO, whatever its patches."""
    return Preprocessing(256, 224, *IMAGENET, middle=even)


def for_dinov2() -> Preprocessing:
    """Of DINOv2: it has positions for 518 pixels, but its published scores are of 224."""
    return Preprocessing(256, 224, *IMAGENET, middle=first)


def for_clip(size: int) -> Preprocessing:
    """Of a CLIP whose pictures have sides of so many pixels."""
    return Preprocessing(size, size, *OPENAI, middle=first)
