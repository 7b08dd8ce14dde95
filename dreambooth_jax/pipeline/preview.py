# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Small pictures of latents, while they are still being made: by the tiny autoencoder, or by no network at all."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import TAESD, TAESD_DECODER
from dreambooth_jax.weights.pretrained import load_module
from dreambooth_jax.weights.single_file import is_single_file

Preview: TypeAlias = Callable[[Array | np.ndarray], UInt8[np.ndarray, "b h w 3"]]
"""Scaled latents [b, h, w, 4], better without noise (what the sampler takes for the picture) -> uint8 pictures."""

# Colours of latents of Stable Diffusion 1 and 2, as fitted by "keturn" in 2022 (discuss.huggingface.co, 23204): a
# picture in [-1, 1] for each latent, half a shade off at most in large areas, and colourless in details.
FACTORS = np.array(
    [[0.298, 0.207, 0.208], [0.187, 0.286, 0.173], [-0.158, 0.189, 0.264], [-0.184, -0.271, -0.473]], np.float32
)


def linear_preview(latents: Array | np.ndarray) -> UInt8[np.ndarray, "b h w 3"]:
    """One pixel for each latent, by a linear map: no network, no program, and every size.

    Args:
        latents: [b, h, w, 4], scaled.

    Raises:
        InputError: if latents have not the four channels of Stable Diffusion 1 and 2.
    """
    latents = np.asarray(latents, np.float32)
    if latents.ndim != 4 or latents.shape[-1] != len(FACTORS):
        raise InputError(f"latents {latents.shape} are not [b, h, w, {len(FACTORS)}]: give preview a tiny autoencoder")
    return _bytes(latents @ FACTORS)


def load_preview(source: str | Path | None = None) -> Preview:
    """What draws previews.

    Args:
        source: the tiny autoencoder that belongs to the model (TAESD): a folder of diffusers' ``AutoencoderTiny``, a
            hub id such as madebyollin/taesd, or the original's ``taesd_decoder.safetensors``; None for
            :func:`linear_preview`.

    Returns:
        A function of latents; pictures have eight pixels for each side of a latent, or one. For each shape of latents
        a small program is compiled once, unless no network is asked.

    Raises:
        InputError: if there is no such network.
    """
    if source is None:
        return linear_preview
    if is_single_file(source):
        module, params = load_module(source, TAESD_DECODER)
    else:
        whole, both = load_module(source, TAESD)
        module, params = TAESD_DECODER.build(whole.config), both["decoder"]
    channels = module.config.latent_channels
    decode = jax.jit(lambda params, latents: module.apply({"params": params}, latents))

    def preview(latents: Array | np.ndarray) -> UInt8[np.ndarray, "b h w 3"]:
        if latents.ndim != 4 or latents.shape[-1] != channels:
            raise InputError(f"latents {latents.shape} are not [b, h, w, {channels}], which {source} draws")
        return _bytes(np.asarray(decode(params, latents)))

    return preview


def _bytes(pictures: Float[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
    """From [-1, 1]; what is not finite is black."""
    return np.nan_to_num(np.clip(np.rint(127.5 * (pictures + 1)), 0, 255)).astype(np.uint8)
