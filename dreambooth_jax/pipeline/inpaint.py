# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run knows of a canvas: latents to start from, to keep, and for the denoiser to look at.

A denoiser of latents alone is made to inpaint by putting the picture's own latents, as noisy as x is, in the place of
x after each step wherever the mask is 0 (RePaint, arXiv 2201.09865). One that was trained to inpaint is told mask and
masked picture instead, as further channels beside x: 4 + 1 + 4 of them.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.data.masks import latent_mask
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.canvas import Canvas
from dreambooth_jax.pipeline.generate import CanvasLatents
from dreambooth_jax.pipeline.img2img import picture_latents
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.upscale import small_latents, upscales
from dreambooth_jax.trees import Tree

MASKED = "masked posterior"
"""The key stream of latents of masked pictures."""


def fills_masks(pipe: Model) -> bool:
    """Whether the denoiser takes a mask and the latents of a masked picture beside noisy latents."""
    return pipe.unet.config.in_channels == 2 * pipe.latent_channels + 1


def check_channels(pipe: Model, canvas: Canvas | None) -> None:
    """Raise InputError if the denoiser looks at what is not given, or at what we do not know."""
    if upscales(pipe):
        return
    if not fills_masks(pipe):
        pipe.check_text_to_image()
    elif canvas is None or canvas.masks is None:
        raise InputError(
            f"the unet of {pipe.components.folder} takes {pipe.unet.config.in_channels} channels, not the "
            f"{pipe.latent_channels} of latents: it fills in masked pictures; give image and mask, or outpaint"
        )


def canvas_latents(
    pipe: Model, params: Tree, canvas: Canvas, settings: DrawingConfig, keys: Key[Array, "b"]
) -> CanvasLatents:
    """What each picture of a call knows of a canvas.

    Args:
        pipe: the model.
        params: with those of the autoencoder.
        canvas: pictures, and masks if there are any.
        settings: with the strength.
        keys: of the pictures that are drawn.
    """
    if upscales(pipe):
        return small_latents(pipe, canvas, settings.noise_level, keys)
    anew = settings.strength == 1 and canvas.masks is not None
    fills = fills_masks(pipe)
    picture = None if anew and fills else picture_latents(pipe, params, canvas.pictures, keys, tiled=settings.tiled)
    if canvas.masks is None:
        return CanvasLatents(start=picture)
    factor, nearest = pipe.vae.config.downscale, settings.profile == "diffusers"
    masks = np.stack([latent_mask(mask, factor, nearest=nearest) for mask in canvas.masks])[..., None]
    mask = jnp.broadcast_to(masks, (len(keys), *masks.shape[1:]))
    start = None if anew else picture
    if not fills:
        return CanvasLatents(start=start, kept=picture, mask=mask)
    return CanvasLatents(start=start, channels=_channels(pipe, params, canvas, mask, keys, tiled=settings.tiled))


def _channels(
    pipe: Model, params: Tree, canvas: Canvas, mask: Float[Array, "b h w 1"], keys: Key[Array, "b"], *, tiled: bool
) -> Float[Array, "b h w k"]:
    """Mask and latents of the masked picture, in which what is drawn anew is grey."""
    grey = [
        np.where(mask[..., None] < 0.5, picture, np.float32(0.5))
        for picture, mask in zip(canvas.pictures, canvas.masks or [])
    ]
    latents = picture_latents(pipe, params, grey, keys, stream=MASKED, tiled=tiled)
    return jnp.concatenate([mask.astype(latents.dtype), latents], axis=-1)
