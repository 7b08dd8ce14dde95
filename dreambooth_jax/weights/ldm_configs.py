# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Shapes of a network's arrays in the original code -> what diffusers' ``config.json`` would say of it.

Everything but the number of attention heads stands in the shapes. Of the UNet, files with convolutions around their
transformers (Stable Diffusion 1) have eight heads everywhere, those with dense layers (2) heads of 64 channels; both
text towers have heads of 64. What no shape tells at all is up to the layout of the file (layouts.py).
"""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from dreambooth_jax.errors import InputError

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


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


def unet_config(mine: Shapes) -> dict[str, Any]:
    """Of the denoiser.

    Args:
        mine: shapes of its arrays, by their names behind its prefix.

    Raises:
        InputError: naming the array that is missing.
    """
    levels = _levels(mine)
    channels = [side_of(mine, f"input_blocks.{rows[0]}.0.out_layers.3.weight", 0) for rows in levels]
    texts = [name for name in mine if name.endswith(".transformer_blocks.0.attn2.to_k.weight")]
    projections = [shape for name, shape in mine.items() if name.endswith(".1.proj_in.weight")]
    dense = bool(projections) and len(projections[0]) == 2
    layers = [len(rows) for rows in levels]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": [max(1, side // 64) for side in channels] if dense else 8,
        "block_out_channels": channels,
        "cross_attention_dim": side_of(mine, min(texts, default="any attn2.to_k.weight"), 1),
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": side_of(mine, "input_blocks.0.0.weight", 1),
        "layers_per_block": layers[0] if len(set(layers)) == 1 else layers,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "out_channels": side_of(mine, "out.2.weight", 0),
        "use_linear_projection": dense,
        **_transformers(mine, levels),
        **_addition(mine),
    }


def _levels(mine: Shapes) -> list[list[int]]:
    """Rows of the way down that have resnets, of each level."""
    levels: list[list[int]] = [[]]
    for row in range(1, _count(mine, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{row}.0.op.weight" in mine:
            levels.append([])
        else:
            levels[-1].append(row)
    if not all(levels):
        raise InputError("lacks resnets of a level of the denoiser")
    return levels


def _transformers(mine: Shapes, levels: list[list[int]]) -> dict[str, Any]:
    """Kinds of blocks, and how deep their transformers are: numbers where all of a block are alike, and lists of each
    layer's where any are not. The middle's is that of the last level, whether that has any itself or not."""

    def depth(piece: str) -> int:
        return _count(mine, rf"{piece}\.1\.transformer_blocks\.(\d+)\.")

    down = [[depth(f"input_blocks\\.{row}") for row in rows] for rows in levels]
    up: list[list[int]] = []
    for rows in reversed(levels):
        first = sum(map(len, up))
        up.append([depth(f"output_blocks\\.{first + layer}") for layer in range(len(rows) + 1)])
    middle = depth("middle_block")
    mirrored = [one[0] for one in down] == [one[0] for one in reversed(up)]
    comes_back = any(name.startswith("output_blocks.") for name in mine)  # a ControlNet does not
    alike = all(len({*depths}) == 1 for depths in (*down, *up)) and (mirrored or not comes_back)
    kinds = {"Down": down, "Up": up}
    types = {way: [f"{'CrossAttn' * any(depths)}{way}Block2D" for depths in blocks] for way, blocks in kinds.items()}
    middles = {2: "UNetMidBlock2DCrossAttn", 1: "UNetMidBlock2D", 0: None}
    return {
        "down_block_types": types["Down"],
        "up_block_types": types["Up"],
        "mid_block_type": middles[min(2, _count(mine, r"middle_block\.(\d+)\."))],
        **(_even(down, middle) if alike else _uneven(down, up, middle)),
    }


def _even(down: list[list[int]], middle: int) -> dict[str, Any]:
    depths = [depths[0] for depths in down]
    used = {depth for depth in (*depths, middle) if depth}
    each = [*(max(1, depth) for depth in depths[:-1]), depths[-1] or max(1, middle)]
    return {"transformer_layers_per_block": used.pop() if len(used) == 1 else each}


def _uneven(down: list[list[int]], up: list[list[int]], middle: int) -> dict[str, Any]:
    each: list[Any] = [depths if any(depths) else 1 for depths in down]
    each[-1] = each[-1] if any(down[-1]) else max(1, middle)
    back = [depths if any(depths) else 1 for depths in up]
    return {"transformer_layers_per_block": each, "reverse_transformer_layers_per_block": back}


def _addition(mine: Shapes) -> dict[str, Any]:
    """Of a denoiser that is told of the whole text and of sizes."""
    first = "label_emb.0.0.weight"
    if first not in mine:
        return {}
    return {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": side_of(mine, first, 1)}


def vae_config(mine: Shapes) -> dict[str, Any]:
    """Of the autoencoder.

    Raises:
        InputError: naming the array that is missing.
    """
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
        "up_block_types": ["UpDecoderBlock2D"] * count,
    }


def clip_config(mine: Shapes) -> dict[str, Any]:
    """Of CLIP's text encoder, whose names are those of transformers.

    Raises:
        InputError: naming the array that is missing.
    """
    top = "text_model.embeddings"
    return _text_config(
        mine,
        vocabulary=f"{top}.token_embedding.weight",
        positions=f"{top}.position_embedding.weight",
        inner="text_model.encoder.layers.0.mlp.fc1.weight",
        hidden_act="quick_gelu",
        layers=_count(mine, r"text_model\.encoder\.layers\.(\d+)\."),
    )


def open_clip_config(mine: Shapes) -> dict[str, Any]:
    """Of OpenCLIP's text encoder as Stable Diffusion 2 has it: where it is stored whole (its projection is there) the
    last layer is not used.

    Raises:
        InputError: naming the array that is missing.
    """
    config = _open_clip_config(mine)
    return {**config, "num_hidden_layers": config["num_hidden_layers"] - ("text_projection" in mine)}


def open_clip_projection_config(mine: Shapes) -> dict[str, Any]:
    """Of OpenCLIP's text encoder where all of it is used.

    Raises:
        InputError: naming the array that is missing.
    """
    projection = side_of(mine, "text_projection", 1)
    more = {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": projection}
    return {**_open_clip_config(mine), **more}


def _open_clip_config(mine: Shapes) -> dict[str, Any]:
    return _text_config(
        mine,
        vocabulary="token_embedding.weight",
        positions="positional_embedding",
        inner="transformer.resblocks.0.mlp.c_fc.weight",
        hidden_act="gelu",
        layers=_count(mine, r"transformer\.resblocks\.(\d+)\."),
    )


def _text_config(
    mine: Shapes, *, vocabulary: str, positions: str, inner: str, hidden_act: str, layers: int
) -> dict[str, Any]:
    width, entries = side_of(mine, vocabulary, 1), side_of(mine, vocabulary, 0)
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": entries - 2,
        "eos_token_id": entries - 1,
        "hidden_act": hidden_act,
        "hidden_size": width,
        "intermediate_size": side_of(mine, inner, 0),
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": side_of(mine, positions, 0),
        "model_type": "clip_text_model",
        "num_attention_heads": max(1, width // 64),
        "num_hidden_layers": layers,
        "projection_dim": width,
        "vocab_size": entries,
    }
