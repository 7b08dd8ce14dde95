# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What config.json says -> modules, and the names and shapes of their parameters."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_text import CLIPTextModel
from dreambooth_jax.models.configs import CLIPTextConfig, UNetConfig, VAEConfig
from dreambooth_jax.models.layers import Remat
from dreambooth_jax.models.unet import UNet2DConditionModel
from dreambooth_jax.models.vae import AutoencoderKL
from dreambooth_jax.target import CPU, Arch
from dreambooth_jax.trees import flatten


def build_modules(
    configs: Mapping[str, Mapping[str, Any]],
    *,
    dtype: DTypeLike = jnp.float32,
    remat: Remat = "nothing",
    arch: Arch = CPU,
) -> dict[str, Any]:
    """Each component's module from its config.json.

    Raises:
        InputError: if a configuration asks for something we don't have, or they do not fit each other.
    """
    unet = UNetConfig.from_json(configs["unet"])
    vae = VAEConfig.from_json(configs["vae"])
    text = CLIPTextConfig.from_json(configs["text_encoder"])
    for what, ours, whose, theirs in (
        ("in_channels", unet.in_channels, "vae's latent_channels", vae.latent_channels),
        ("out_channels", unet.out_channels, "vae's latent_channels", vae.latent_channels),
        ("cross_attention_dim", unet.cross_attention_dim, "text_encoder's hidden_size", text.hidden_size),
    ):
        if ours != theirs:
            raise InputError(f"unet/config.json: {what} = {ours} does not fit the {whose} = {theirs}")
    return {
        "unet": UNet2DConditionModel(unet, dtype=dtype, remat=remat, arch=arch),
        "vae": AutoencoderKL(vae, dtype=dtype, arch=arch),
        "text_encoder": CLIPTextModel(text, dtype=dtype, remat=remat, arch=arch),
    }


def parameter_shapes(module: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Name -> shape of a module's parameters, without computing or allocating any."""
    return dict(_shapes(module.config))  # they depend on nothing else


@cache
def _shapes(config: UNetConfig | VAEConfig | CLIPTextConfig) -> dict[str, jax.ShapeDtypeStruct]:
    real = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    whole = partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    module: nn.Module
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    if isinstance(config, UNetConfig):
        module = UNet2DConditionModel(config)
        inputs = (real((1, 64, 64, config.in_channels)), whole((1,)), real((1, 1, config.cross_attention_dim)))
    elif isinstance(config, VAEConfig):
        module, inputs = AutoencoderKL(config), (real((1, 64, 64, config.in_channels)),)
    else:
        module, inputs = CLIPTextModel(config), (whole((1, 1)),)
    variables = jax.eval_shape(module.init, jax.eval_shape(lambda: jax.random.key(0)), *inputs)
    return flatten(variables["params"])
