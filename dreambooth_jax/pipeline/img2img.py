# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs that start from a picture: its latents, noised to the level of the table's first row (SDEdit, arXiv 2108.01073).

The autoencoder says of a picture a Gaussian over latents. They are drawn from it as diffusers, A1111 and ComfyUI do,
each by its own picture's key, so that a picture depends on its own seed alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dreambooth_jax import rng
from dreambooth_jax.data.pictures import Picture
from dreambooth_jax.models import vae_strips
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.trees import Tree

POSTERIOR = "posterior"
"""The key stream of latents that are drawn from what the encoder says."""


def picture_latents(
    pipe: Model,
    params: Tree,
    pictures: list[Picture],
    keys: Key[Array, "b"],
    *,
    stream: str = POSTERIOR,
    tiled: bool = False,
) -> Float[Array, "b h w c"]:
    """Scaled latents of pictures.

    Args:
        pipe: the model.
        params: with those of the autoencoder.
        pictures: of the size that is drawn, in [0, 1]: one for all, or one for each key.
        keys: of the pictures that are drawn.
        stream: the name of the draw.
        tiled: encode strip by strip, for large pictures.
    """
    images = np.stack([2 * picture - 1 for picture in pictures])
    if tiled:
        moments = [vae_strips.encode(pipe.vae, params["vae"], image) for image in images]
        mean, logvar = (jnp.stack(each) for each in zip(*moments))
    else:
        mean, logvar = pipe.encode_images(params, images)
    return _drawn(mean, logvar, keys, scale=pipe.vae.config.scaling_factor, stream=stream)


@partial(jax.jit, static_argnames=("scale", "stream"))
def _drawn(
    mean: Float[Array, "n h w c"], logvar: Float[Array, "n h w c"], keys: Key[Array, "b"], *, scale: float, stream: str
) -> Float[Array, "b h w c"]:
    def draw(key: Key[Array, ""]) -> Float[Array, "h w c"]:
        return jax.random.normal(rng.stream(key, stream), mean.shape[1:], mean.dtype)

    shape = (len(keys), *mean.shape[1:])
    mean, deviation = (jnp.broadcast_to(x, shape) for x in (mean, jnp.exp(logvar / 2)))
    return (mean + deviation * jax.vmap(draw)(keys)) * scale


def decoded(pipe: Model, params: Tree, latents: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b H W 3"]:
    """Pictures in [0, 1] of scaled latents, decoded strip by strip."""
    raw = np.asarray(latents) / pipe.vae.config.scaling_factor
    pictures = [vae_strips.decode(pipe.vae, params["vae"], one) for one in raw]
    return np.clip(np.stack(pictures) / 2 + 0.5, 0, 1)
