# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Models that enlarge a picture four times: Stable Diffusion's ×4 upscaler.

The denoiser is told the small picture beside x: one of its pixels is as large as one of the latents. Some noise is
added to it (cascaded diffusion, arXiv 2106.15282), of a level that the denoiser is told as a label: more noise lets it
invent more. The levels are those of a schedule of their own, in the model's folder.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dreambooth_jax import rng
from dreambooth_jax.config.sampling import LARGEST_SIDE
from dreambooth_jax.data.pictures import Picture
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.canvas import Canvas
from dreambooth_jax.pipeline.generate import CanvasLatents
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.size import Size
from dreambooth_jax.weights.folders import LOW_RES_SCHEDULER
from dreambooth_jax.weights.json_files import read_json

LOW_RESOLUTION = "low resolution"
"""The key stream of the noise that is added to small pictures."""


def upscales(pipe: Model) -> bool:
    """Whether the denoiser takes a picture, and the level of its noise, beside noisy latents."""
    config = pipe.unet.config
    wanted = pipe.latent_channels + pipe.vae.config.in_channels
    return config.num_class_embeds is not None and config.in_channels == wanted


def small_canvas(pipe: Model, pictures: list[Picture] | None) -> Canvas:
    """A canvas of the enlarged size that has the small pictures on it.

    Raises:
        InputError: if there are none, or they become too large.
    """
    if pictures is None:
        raise InputError(f"image = None: {pipe.components.folder} enlarges pictures; give one")
    size = Size(*(pipe.vae.config.downscale * side for side in pictures[0].shape[:2]))
    if max(size) > LARGEST_SIDE:
        raise InputError(f"image becomes {size.width}x{size.height}: at most {LARGEST_SIDE} can be drawn")
    return Canvas(size=size, pictures=pictures, whole=[], soft=[], boxes=[])


def small_latents(pipe: Model, canvas: Canvas, noise_level: int, keys: Key[Array, "b"]) -> CanvasLatents:
    """The small pictures, with noise, and its level.

    Args:
        pipe: the model.
        canvas: of :func:`small_canvas`.
        noise_level: a timestep of the model's schedule for small pictures.
        keys: of the pictures that are drawn.
    """
    file = pipe.components.folder / LOW_RES_SCHEDULER
    if not file.is_file():
        raise InputError(f"{file} is missing: it says how noisy the small pictures are; download the model's folder")
    schedule = NoiseSchedule.from_config(read_json(file))
    most = min(schedule.num_train_timesteps, pipe.unet.config.num_class_embeds or 0) - 1
    if noise_level > most:
        raise InputError(f"noise_level = {noise_level}: {pipe.components.folder} knows those from 0 to {most}")
    bar = float(schedule.alphas_cumprod[noise_level])
    small = np.stack([2 * picture - 1 for picture in canvas.pictures])
    noisy = _noisy(jnp.asarray(small), keys, jnp.asarray([bar**0.5, (1 - bar) ** 0.5], np.float32))
    return CanvasLatents(channels=noisy, labels=jnp.full(len(keys), noise_level))


@partial(jax.jit)
def _noisy(small: Float[Array, "n h w c"], keys: Key[Array, "b"], level: Float[Array, "2"]) -> Float[Array, "b h w c"]:
    def draw(key: Key[Array, ""]) -> Float[Array, "h w c"]:
        return jax.random.normal(rng.stream(key, LOW_RESOLUTION), small.shape[1:], small.dtype)

    return level[0] * jnp.broadcast_to(small, (len(keys), *small.shape[1:])) + level[1] * jax.vmap(draw)(keys)
