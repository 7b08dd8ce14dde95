# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The program that makes pictures: text encoder, guided sampler and decoder, as one pure function.

ids -> text states ─┐
latents ────────────┴─> sampler(guided(UNet)) -> latents -> decoder -> pictures
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Integer, Key

from dreambooth_jax import rng
from dreambooth_jax.diffusion.guidance import guided
from dreambooth_jax.diffusion.loop import sample
from dreambooth_jax.diffusion.table import SamplerTable
from dreambooth_jax.models.clip_text import CLIPTextModel
from dreambooth_jax.models.unet import UNet2DConditionModel
from dreambooth_jax.models.vae import AutoencoderKL
from dreambooth_jax.trees import Tree


class Rows(NamedTuple):
    """What each picture has of its own."""

    ids: Int[Array | np.ndarray, "b s"]
    negative_ids: Int[Array | np.ndarray, "b s"]
    latents: Float[Array, "b h w c"]
    keys: Key[Array, "b"]


def generate(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    with_guidance: bool,
    params: Tree,
    rows: Rows,
    table: SamplerTable,
    guidance_scale: Float[Array, ""],
) -> tuple[Float[Array, "b h w c"], Float[Array, "b H W 3"]]:
    """(final latents, pictures in [0, 1])."""

    def network(x: Array, t: Array, text: Array) -> Array:
        return apply(unet, None, params["unet"], x, jnp.full(len(x), t), text)

    def decode(latents: Array) -> Array:
        return apply(vae, "decode", params["vae"], latents[None] / vae.config.scaling_factor)[0]

    ids = jnp.concatenate([rows.ids, rows.negative_ids] if with_guidance else [rows.ids])
    states = apply(text_encoder, None, params["text_encoder"], ids)
    text, negative = jnp.split(states, 2) if with_guidance else (states, None)
    denoise = guided(network, text=text, negative=negative, scale=guidance_scale)
    final = sample(denoise, rows.latents, table, keys=rows.keys)
    # One at a time: a picture at full size keeps a device busy, and several need more memory than all that came before.
    return final, jnp.clip(jax.lax.map(decode, final) / 2 + 0.5, 0, 1)


def apply(module: nn.Module, method: str | None, params: Tree, *inputs: Array) -> Any:
    """What a module, or one of its methods, makes of its inputs."""
    return module.apply({"params": params}, *inputs, method=method)


@partial(jax.jit, static_argnames="shape")
def draw_latents(
    seeds: Integer[Array | np.ndarray, "b"], *, shape: tuple[int, ...]
) -> tuple[Key[Array, "b"], Float[Array, "b h w c"]]:
    """(keys, normal latents) of pictures."""
    keys = jax.vmap(rng.root_key)(seeds)
    draw = partial(jax.random.normal, shape=shape[1:], dtype=jnp.float32)
    return keys, jax.vmap(lambda key: draw(rng.stream(key, "latents")))(keys)
