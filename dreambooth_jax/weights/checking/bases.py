# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The published models that adapters are made for, as a table."""

from collections.abc import Mapping
from typing import NamedTuple

from dreambooth_jax.models.clip_configs import CLIPTextConfig, CLIPTextProjectionConfig
from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.families import SD, SDXL, SDXL_REFINER, Family


class Base(NamedTuple):
    """A model that is published.

    Attributes:
        name: what it is called.
        family: of it.
        unet: its denoiser.
        text_encoders: by their names.
        version: of Stable Diffusion before XL; XL's is its family's.
        architecture: in the model specification; None where its layers do not tell it.
        side: of the pictures that it draws; None where its layers do not tell it.
    """

    name: str
    family: Family
    unet: UNetConfig
    text_encoders: Mapping[str, CLIPTextConfig]
    version: int | None = None
    architecture: str | None = None
    side: int | None = None


_CLIP_L = CLIPTextConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
_OPEN_CLIP_H = CLIPTextConfig(
    hidden_size=1024, num_attention_heads=16, intermediate_size=4096, num_hidden_layers=23, hidden_act="gelu"
)
_OPEN_CLIP_G = CLIPTextProjectionConfig(
    hidden_size=1280,
    num_attention_heads=20,
    intermediate_size=5120,
    num_hidden_layers=32,
    hidden_act="gelu",
    projection_dim=1280,
)
_XL_UNET = UNetConfig(
    cross_attention_dim=2048,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
_REFINER_UNET = UNetConfig(
    cross_attention_dim=1280,
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=4,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2560,
)
SD1 = Base(
    name="Stable Diffusion 1",
    family=SD,
    unet=UNetConfig(cross_attention_dim=768),
    text_encoders={"text_encoder": _CLIP_L},
    version=1,
    architecture="stable-diffusion-v1",
    side=512,
)
SD2 = Base(  # of 512 or 768 pixels, which predicts noise or velocity
    name="Stable Diffusion 2",
    family=SD,
    unet=UNetConfig(cross_attention_dim=1024),
    text_encoders={"text_encoder": _OPEN_CLIP_H},
    version=2,
)
XL = Base(
    name="Stable Diffusion XL",
    family=SDXL,
    unet=_XL_UNET,
    text_encoders={"text_encoder": _CLIP_L, "text_encoder_2": _OPEN_CLIP_G},
    architecture=SDXL.naming.architecture,
    side=1024,
)
REFINER = Base(
    name="the refiner of Stable Diffusion XL",
    family=SDXL_REFINER,
    unet=_REFINER_UNET,
    text_encoders={"text_encoder_2": _OPEN_CLIP_G},
    architecture=SDXL_REFINER.naming.architecture,
    side=1024,
)
BASES = {one.name: one for one in (SD1, SD2, XL, REFINER)}
