# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The networks as Flax modules, their configurations, and which of them make up a family of models.

Parameters are plain nested dicts. A leaf's path is PyTorch's name of it, with list indices joined as Flax does:
``down_blocks.0.attentions.1.proj_in.weight`` is ``down_blocks_0/attentions_1/proj_in/kernel``.
"""

from dreambooth_jax.models.clip_configs import CLIPTextConfig, CLIPTextProjectionConfig
from dreambooth_jax.models.clip_text import CLIPTextModel
from dreambooth_jax.models.clip_text_pooled import CLIPTextModelBeforeLast, CLIPTextModelWithProjection
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.models.controlnet import ControlNetConfig, ControlNetModel
from dreambooth_jax.models.unet import UNet2DConditionModel
from dreambooth_jax.models.vae import AutoencoderKL

__all__ = [
    "AutoencoderKL",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelBeforeLast",
    "CLIPTextModelWithProjection",
    "CLIPTextProjectionConfig",
    "ControlNetConfig",
    "ControlNetModel",
    "UNet2DConditionModel",
    "UNetConfig",
    "VAEConfig",
]
