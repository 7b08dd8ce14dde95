# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Shapes of a single file's arrays -> what diffusers' ``config.json`` files would say of its networks.

Everything but the number of attention heads stands in the shapes. Of the UNet, files with convolutions around their
transformers (Stable Diffusion 1) have eight heads everywhere, those with dense layers (2) heads of 64 channels; both
text towers have heads of 64.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.ldm import CLIP_PREFIX, OPEN_CLIP_PREFIX, UNET_PREFIX, VAE_PREFIX

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

SCALING_FACTOR = 0.18215
"""Of the autoencoder that Stable Diffusion 1 and 2 have."""


def _under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _count(shapes: Shapes, pattern: str) -> int:
    """How many different numbers stand in the place of the pattern's group."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def side_of(shapes: Shapes, name: str, axis: int) -> int:
    """A side of an array.

    Raises:
        InputError: if the array is not there.
    """
    if name not in shapes or not -len(shapes[name]) <= axis < len(shapes[name]):
        raise InputError(f"lacks {name}")
    return shapes[name][axis]


def unet_config(shapes: Shapes, *, sample_size: int) -> dict[str, Any]:
    """Of the denoiser.

    Args:
        shapes: of all arrays of the file.
        sample_size: side of the latents that it was trained on.

    Raises:
        InputError: naming the array that is missing.
    """
    mine = _under(shapes, UNET_PREFIX)
    levels: list[list[int]] = [[]]
    for row in range(1, _count(mine, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{row}.0.op.weight" in mine:
            levels.append([])
        else:
            levels[-1].append(row)
    if not all(levels):
        raise InputError("lacks resnets of a level of the denoiser")
    channels = [side_of(mine, f"input_blocks.{rows[0]}.0.out_layers.3.weight", 0) for rows in levels]
    depths = [_count(mine, rf"input_blocks\.{rows[0]}\.1\.transformer_blocks\.(\d+)\.") for rows in levels]
    middle = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    dense = len(mine.get("middle_block.1.proj_in.weight", ())) == 2
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    layers = [len(rows) for rows in levels]
    depth = _count(mine, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": [max(1, side // 64) for side in channels] if dense else 8,
        "block_out_channels": channels,
        "cross_attention_dim": side_of(mine, middle, 1),
        "down_block_types": down,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": side_of(mine, "input_blocks.0.0.weight", 1),
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": side_of(mine, "out.2.weight", 0),
        "sample_size": sample_size,
        "transformer_layers_per_block": 1 if depth == 1 else [max(1, one) for one in depths],
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "use_linear_projection": dense,
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Of the autoencoder.

    Raises:
        InputError: naming the array that is missing.
    """
    mine = _under(shapes, VAE_PREFIX)
    count = _count(mine, r"encoder\.down\.(\d+)\.")
    channels = [side_of(mine, f"encoder.down.{level}.block.0.conv1.weight", 0) for level in range(count)]
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "in_channels": side_of(mine, "encoder.conv_in.weight", 1),
        "latent_channels": side_of(mine, "post_quant_conv.weight", 0),
        "layers_per_block": _count(mine, r"encoder\.down\.0\.block\.(\d+)\."),
        "norm_num_groups": 32,
        "out_channels": side_of(mine, "decoder.conv_out.weight", 0),
        "scaling_factor": SCALING_FACTOR,
        "up_block_types": ["UpDecoderBlock2D"] * count,
    }


def text_config(shapes: Shapes) -> dict[str, Any]:
    """Of the text encoder: CLIP's, or OpenCLIP's where its names are there.

    Of an OpenCLIP tower that is stored whole (its projection is there) the last layer is not used.

    Raises:
        InputError: naming the array that is missing.
    """
    open_clip = any(name.startswith(OPEN_CLIP_PREFIX) for name in shapes)
    mine = _under(shapes, OPEN_CLIP_PREFIX if open_clip else CLIP_PREFIX)
    if open_clip:
        vocabulary, positions = "token_embedding.weight", "positional_embedding"
        layers = _count(mine, r"transformer\.resblocks\.(\d+)\.") - ("text_projection" in mine)
        wide = "transformer.resblocks.0.mlp.c_fc.weight"
    else:
        vocabulary, positions = (f"text_model.embeddings.{name}_embedding.weight" for name in ("token", "position"))
        layers = _count(mine, r"text_model\.encoder\.layers\.(\d+)\.")
        wide = "text_model.encoder.layers.0.mlp.fc1.weight"
    width, entries = side_of(mine, vocabulary, 1), side_of(mine, vocabulary, 0)
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": entries - 2,
        "eos_token_id": entries - 1,
        "hidden_act": "gelu" if open_clip else "quick_gelu",
        "hidden_size": width,
        "intermediate_size": side_of(mine, wide, 0),
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": side_of(mine, positions, 0),
        "model_type": "clip_text_model",
        "num_attention_heads": max(1, width // 64),
        "num_hidden_layers": layers,
        "projection_dim": width,
        "vocab_size": entries,
    }
