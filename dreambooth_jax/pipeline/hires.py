# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A second pass at a larger size ("hires fix"): what the first one drew is enlarged, noised again and drawn to the end.

A model made for 512 pixels repeats its subject in larger pictures; one that starts from the enlarged first pass keeps
its composition and adds details. Latents are enlarged bilinearly, which is quick and soft, or the picture by Lanczos,
which the autoencoder then encodes.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreambooth_jax import rng
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.sampling import LARGEST_SIDE
from dreambooth_jax.data.pictures import resampled
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.img2img import picture_latents
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.request import Request
from dreambooth_jax.size import Size
from dreambooth_jax.trees import Tree


def second_size(size: Size, scale: float, factor: int) -> Size:
    """Pixels of the second pass: so many times those of the first, rounded to multiples of ``factor``.

    Raises:
        InputError: if that is more than can be drawn.
    """
    larger = Size(*(round(scale * side / factor) * factor for side in size))
    if max(larger) > LARGEST_SIDE:
        raise InputError(f"hires_scale = {scale:g}: makes {larger.width}x{larger.height}; at most {LARGEST_SIDE}")
    return larger


def second_request(request: Request, size: Size) -> Request:
    """What the second pass is asked for."""
    first = request.sampling
    settings: DrawingConfig = replace(
        first,
        **size._asdict(),
        steps=first.hires_steps or first.steps,
        strength=first.hires_strength,
        hires_scale=1.0,
    )
    return replace(request, sampling=settings, latents=None, image=None, mask=None)


def enlarged(
    pipe: Model, params: Tree, request: Request, final: np.ndarray, images: np.ndarray
) -> Float[Array, "b h w c"]:
    """Latents that the second pass starts from.

    Args:
        pipe: the model.
        params: with those of the autoencoder.
        request: of the second pass.
        final: latents of the first pass.
        images: pictures of the first pass, in [0, 1].
    """
    settings, factor = request.sampling, pipe.vae.config.downscale
    size = Size(settings.height or 0, settings.width or 0)
    if settings.hires_by == "latent":
        shape = (len(final), *size.latents(factor), final.shape[-1])
        return jax.image.resize(jnp.asarray(final), shape, method="linear", antialias=False)
    keys = jax.vmap(rng.root_key)(np.asarray([seed % 2**32 for seed in request.seeds], np.uint32))
    pictures = [resampled(np.asarray(image, np.float32), size) for image in images]
    return picture_latents(pipe, params, pictures, keys, tiled=settings.tiled)
