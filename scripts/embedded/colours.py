# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Twelve colour words: what they look like as a background, and when a pixel has earned one of them."""

import numpy as np
from jaxtyping import Float
from PIL import Image

HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 120, "teal": 180, "blue": 218, "purple": 275, "pink": 322}
"""In degrees: where a thing's main hue is turned to."""

Share = tuple[str, float]


def name_pixels(rgb: Float[np.ndarray, "n 3"]) -> list[str]:
    """The colour word of each pixel, in [0, 1]: by hue, except for what is too dark, too pale or brown."""
    largest, smallest = rgb.max(1), rgb.min(1)
    value, chroma = largest, largest - smallest
    saturation = chroma / np.maximum(largest, 1e-6)
    hue = _hue(rgb, largest, np.maximum(chroma, 1e-6))
    rules = [
        (value < 0.22, "black"),
        ((saturation < 0.16) & (value > 0.82), "white"),
        (saturation < 0.16, "gray"),
        (((hue < 12) | (hue >= 345)) & (saturation < 0.5) & (value > 0.75), "pink"),
        (((hue < 12) | (hue >= 345)) & (value < 0.5), "brown"),
        ((hue < 12) | (hue >= 345), "red"),
        ((hue < 42) & ((value < 0.72) | ((saturation < 0.55) & (value < 0.85))), "brown"),
        (hue < 42, "orange"),
        ((hue < 68) & (value < 0.5), "brown"),
        (hue < 68, "yellow"),
        (hue < 160, "green"),
        (hue < 195, "teal"),
        ((hue < 255) & (saturation < 0.25) & (value < 0.8), "gray"),
        (hue < 255, "blue"),
        ((hue < 292) | (value <= 0.45), "purple"),
    ]
    return list(np.select([rule for rule, _ in rules], [name for _, name in rules], "pink"))


def _hue(rgb: np.ndarray, largest: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    red, green, blue = rgb.T
    sixths = np.select(
        [largest == red, largest == green],
        [(green - blue) / chroma % 6, (blue - red) / chroma + 2],
        (red - green) / chroma + 4,
    )
    return 60 * sixths


def shares(picture: Image.Image) -> list[Share]:
    """(colour word, share of the opaque pixels), largest first, of those with at least an eighth or nearly."""
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), np.float32).reshape(-1, 4)
    opaque = small[small[:, 3] > 128][:, :3] / 255
    if not len(opaque):
        return []
    names, counts = np.unique(name_pixels(opaque), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(str(names[i]), float(counts[i] / len(opaque))) for i in order if counts[i] / len(opaque) >= 0.12]


def recolour(picture: Image.Image, main: Share | None, target: str) -> Image.Image | None:
    """The picture with its main hue turned to ``target``; None where the result does not read as that colour."""
    if main is None or main[1] < 0.5 or main[0] not in HUES or main[0] == target:
        return None
    hsv = np.array(picture.convert("RGB").convert("HSV"), np.int16)
    hsv[..., 0] = (hsv[..., 0] + round((HUES[target] - HUES[main[0]]) * 255 / 360)) % 256
    turned = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    turned.putalpha(picture.getchannel("A"))
    found = shares(turned)
    return turned if found and found[0][0] == target and found[0][1] >= 0.5 else None
