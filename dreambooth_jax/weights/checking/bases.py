# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The models that adapters are made for: their layers, and which of them an adapter is for by what it changes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from dreambooth_jax.models.clip_configs import CLIPTextConfig, CLIPTextProjectionConfig
from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.families import SD, SDXL, SDXL_REFINER, Family
from dreambooth_jax.weights.adapters.methods import Module
from dreambooth_jax.weights.checking.layers import Layer
from dreambooth_jax.weights.checking.widths import Widths, denoiser_widths, text_widths
from dreambooth_jax.weights.modelspec import PREFIX, SPEC_VERSION, implementation_of


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


@cache
def layers_of_base(name: str) -> Mapping[str, Mapping[str, Widths]]:
    """network -> path -> widths, of all layers of one of ``BASES``."""
    base = BASES[name]
    texts = {network: text_widths(config) for network, config in base.text_encoders.items()}
    return {"unet": denoiser_widths(base.unet), **texts}


def base_of(layers: list[Layer]) -> str | None:
    """The model that most of the layers that tell are of, as one of ``BASES`` or in words; None where none tells."""
    votes = Counter(dict.fromkeys(BASES, 0))
    for layer in layers:
        votes.update(_told_by(layer))
    most = max(votes, key=votes.__getitem__)
    return most if votes[most] else None


def _told_by(layer: Layer) -> Iterator[str]:
    """The models whose layer it may be, of a layer that is not the same in all."""
    width = inputs_of(layer.module)
    if layer.network == "unet":
        if width is not None and layer.path.endswith(("attn2/to_k", "attn2/to_v")):
            alike = [one.name for one in BASES.values() if one.unet.cross_attention_dim == width]
            yield from alike or [f"a model whose text has {width} channels"]
        return
    if width is not None and layer.path.endswith("q_proj"):
        alike = [name for name in BASES if _may_have(name, layer, width)]
        yield from alike or [f"a model whose text encoder has {width} channels"]
    elif layer.network == "text_encoder_2":
        yield from (name for name in BASES if _may_have(name, layer, width))


def _may_have(name: str, layer: Layer, width: int | None) -> bool:
    """Whether a layer of a text encoder may be of a model, by its name and by what it takes."""
    config = BASES[name].text_encoders.get(layer.network)
    own = layers_of_base(name).get(layer.network, {}).get(layer.path)
    if (
        config is None
        or (own is not None and width not in (None, own.inputs))
        or (own is None and width != config.hidden_size)
    ):
        return False
    prefix = BASES[name].family.naming.kohya[layer.network]
    return layer.dialect != "kohya" or layer.names[0].startswith(prefix)


def inputs_of(module: Module) -> int | None:
    """Channels that the changed layer takes, where one tensor tells."""
    for name in ("lora_down", "hada_w1_b", "diff"):
        if name in module.tensors and np.ndim(module.tensors[name]) >= 2:
            return int(module.tensors[name].shape[-2])
    return None


def texts_of_base(name: str | None, *, part: Literal["lora", "textual-inversion"], title: str) -> dict[str, str]:
    """Metadata for a file of which no more is known than what it holds: which model it is for, as far as that tells.

    Args:
        name: of the model, as ``base_of`` tells it.
        part: what of a model the file holds.
        title: of the file.
    """
    if name not in BASES:
        return {f"{PREFIX}title": title}
    base = BASES[name]
    naming = base.family.naming
    texts = {"ss_v2": str(base.version == 2), f"{PREFIX}title": title}
    if version := naming.base or ("sd_v1" if base.version == 1 else None):
        texts["ss_base_model_version"] = version
    if base.architecture:
        own = {
            "sai_model_spec": SPEC_VERSION,
            "architecture": f"{base.architecture}/{part}",
            "implementation": implementation_of(base.family, part),
            "resolution": f"{base.side}x{base.side}",
        }
        texts |= {f"{PREFIX}{key}": text for key, text in own.items()}
    return texts
