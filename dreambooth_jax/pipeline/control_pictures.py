# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What networks that guide a denoiser are given of a caller's pictures: [b, ...], one for each prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from dreambooth_jax.data.pictures import Picture, Source, read_pictures, resampled
from dreambooth_jax.pipeline.arguments import check
from dreambooth_jax.pipeline.control import IPAdapterGuide
from dreambooth_jax.size import Size

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""Of the pixels that CLIP was trained on."""


def maps(module: Any, image: Source | Sequence[Source], count: int, size: Size) -> Float32[np.ndarray, "b H W c"]:
    """Pictures that lie on what is drawn: in [0, 1], of its size."""
    del module
    return _for_each(image, count, lambda picture: resized(picture, size))


def images_or_embeddings(module: IPAdapterGuide, image: Any, count: int, size: Size) -> Float32[np.ndarray, "b ..."]:
    """What an IP-Adapter is given: pixels for its image encoder, or, if it has none, embeddings [e] or [b, e]."""
    del size
    if module.encoder is not None:
        side = module.encoder.config.image_size
        return _for_each(image, count, lambda picture: clip_pixels(picture, side))
    rows = np.atleast_2d(np.asarray(image, np.float32)) if hasattr(image, "shape") else np.zeros((0, 0), np.float32)
    fine = rows.ndim == 2 and rows.shape[1] == module.width and len(rows) in (1, count) and np.isfinite(rows).all()
    rule = f"without an image encoder give embeddings [{module.width}], or [b, {module.width}] for each prompt"
    check("control image", getattr(image, "shape", type(image).__name__), bool(fine), rule)
    return np.broadcast_to(rows, (count, module.width))


def resized(picture: Picture, size: Size) -> Picture:
    """Stretched to a size by Lanczos-3, as diffusers does; what has eight bits keeps to them on the way."""
    if Size(*picture.shape[:2]) == size:
        return picture
    levels = 255 * picture
    if np.abs(levels - np.rint(levels)).max() > 1e-3:
        return resampled(picture, size)
    image = Image.fromarray(_bytes(picture)).resize((size.width, size.height), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / np.float32(255)


def clip_pixels(picture: Picture, side: int) -> Float32[np.ndarray, "side side 3"]:
    """The square in the middle, by bicubic interpolation in eight bits, normalised: as CLIP sees a picture."""
    height, width, _ = picture.shape
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    image = Image.fromarray(_bytes(picture)).resize(size, Image.Resampling.BICUBIC)
    left, top = ((length - side) // 2 for length in size)
    square = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / np.float32(255)
    return (square - _MEAN) / _DEVIATION


def _bytes(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(255 * picture).astype(np.uint8)


def _for_each(image: Source | Sequence[Source], count: int, make: Callable[[Picture], np.ndarray]) -> np.ndarray:
    pictures = read_pictures(image, name="control image")
    some = f"{len(pictures)} pictures"
    check("control image", some, len(pictures) in (1, count), f"give one, or one for each of {count} prompts")
    made = [make(picture) for picture in pictures]
    return np.stack(made * count if len(made) == 1 else made)
