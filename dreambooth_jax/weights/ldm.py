# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Names of the same parameter in diffusers' folders and in the original code (LDM, sgm, A1111, ComfyUI).

    diffusers   down_blocks.0.attentions.1.proj_in.weight
    LDM         input_blocks.2.1.proj_in.weight             behind the network's prefix (layouts.py)

The original code counts the pieces of the UNet in one row, on the way down and on the way up, a change of size being a
piece of its own on the way down and the last part of a piece on the way up; of the autoencoder it counts levels of the
decoder from the finest. Stable Diffusion 2 has OpenCLIP's text tower, whose attention keeps the projections of q, k and
v in one array, and whose projection lies the other way round.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.configs import UNetConfig, VAEConfig


class Stored(NamedTuple):
    """Where a parameter is in a single file."""

    key: str
    """Its name there, behind the prefix of its network."""
    third: int | None = None
    """Which third of the rows of that array it is; None for all of them."""
    as_conv: bool = False
    """Whether a dense layer is kept as a 1×1 convolution."""
    as_matrix: bool = False
    """Whether a dense layer is kept as the matrix that rows are multiplied with: [in, out]."""


Place = Callable[[Any, str], Stored]
"""(config of a network, a parameter's name in diffusers) -> where it is stored."""

_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_OPEN_CLIP = {
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_ATTENTION_WEIGHTS = tuple(f"attn_1.{name}.weight" for name in ("q", "k", "v", "proj_out"))


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """A name whose first segments are in the table, with what the table has in their place."""
    for ours, theirs in table.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name


def unet_place(config: UNetConfig, name: str) -> Stored:
    """Of a parameter of the denoiser, by its name in diffusers.

    >>> unet_place(UNetConfig(), "up_blocks.1.upsamplers.0.conv.bias").key
    'output_blocks.5.2.conv.bias'
    """
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.0*(\d+)\.(.+)", name)
    if match is None:
        head = _renamed(name, _UNET)
        block, _, rest = head.partition(".")
        number, _, rest = rest.partition(".")
        key = f"{block}.{number}.{_renamed(rest, _RESNET)}" if block == "middle_block" and number != "1" else head
        return Stored(key)
    way, what, rest = match[1], match[3], match[5]
    level, layer = int(match[2]), int(match[4])
    layers = config.per_block(config.layers_per_block)
    if way == "down":
        first = 1 + sum(count + 1 for count in layers[:level])
        row, last, attends = "input_blocks", first + layers[level], False
    else:
        counts = [count + 1 for count in reversed(layers)]
        first = sum(counts[:level])
        row, last = "output_blocks", first + counts[level] - 1
        attends = config.up_block_types[level].startswith("CrossAttn")
    place = {
        "resnets": f"{first + layer}.0.{_renamed(rest, _RESNET)}",
        "attentions": f"{first + layer}.1.{rest}",
        "downsamplers": f"{last}.0.op.{rest.removeprefix('conv.')}",
        "upsamplers": f"{last}.{2 if attends else 1}.{rest}",
    }
    return Stored(f"{row}.{place[what]}")


def vae_place(config: VAEConfig, name: str) -> Stored:
    """Of a parameter of the autoencoder.

    >>> blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    >>> vae_place(VAEConfig(block_out_channels=(32, 64), **blocks), "decoder.up_blocks.0.upsamplers.0.conv.bias").key
    'decoder.up.1.upsample.conv.bias'
    """
    half, _, rest = name.partition(".")
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", rest):
        way, what, layer, inner = match[1], match[3], match[4], match[5]
        level = int(match[2]) if way == "down" else len(config.block_out_channels) - 1 - int(match[2])
        place = f"block.{layer}.{_renamed(inner, _VAE_RESNET)}" if what == "resnets" else f"{what[:-2]}.{inner}"
        rest = f"{way}.{level}.{place}"
    elif half in ("encoder", "decoder"):
        rest = _renamed(rest, _VAE)
        middle, _, inner = rest.removeprefix("mid.").partition(".")
        if rest.startswith("mid."):
            table = _VAE_ATTENTION if middle == "attn_1" else _VAE_RESNET
            rest = f"mid.{middle}.{_renamed(inner, table)}"
    return Stored(f"{half}.{rest}", as_conv=rest.endswith(_ATTENTION_WEIGHTS))


def clip_place(config: CLIPTextConfig, name: str) -> Stored:
    """Of a parameter of CLIP's text tower, as in Stable Diffusion 1: as transformers calls it."""
    del config
    return Stored(name)


def open_clip_place(config: CLIPTextConfig, name: str) -> Stored:
    """Of a parameter of the text tower, as OpenCLIP has it in Stable Diffusion 2 and XL.

    >>> open_clip_place(CLIPTextConfig(), "text_model.encoder.layers.3.self_attn.v_proj.bias")[:2]
    ('transformer.resblocks.3.attn.in_proj_bias', 2)
    """
    del config
    if name == "text_model.embeddings.position_embedding.weight":
        return Stored("positional_embedding")
    if name == "text_projection.weight":
        return Stored("text_projection", as_matrix=True)
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)", name)
    if match is None:
        return Stored(_renamed(name, _OPEN_CLIP))
    layer = f"transformer.resblocks.{match[1]}."
    if fused := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", match[2]):
        return Stored(f"{layer}attn.in_proj_{fused[2]}", "qkv".index(fused[1]))
    return Stored(layer + _renamed(match[2], _OPEN_CLIP_LAYER))


def is_open_clip(text_encoder: CLIPTextConfig) -> bool:
    """Whether a text encoder is OpenCLIP's, which has the exact gelu, rather than OpenAI's."""
    return text_encoder.hidden_act == "gelu"
