# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Vision transformers as timm and the original code of DINO and DINOv2 (torch.hub) name them, to transformers' names.

Both know the shape of a network by its name. The arrays tell it, too: heads are 64 wide in all sizes, and DINOv2 has
factors behind its layers.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreambooth_jax.weights.files import Leaf, turned
from dreambooth_jax.weights.sources import Shapes

HEAD = 64
"""Width of an attention head."""
EPSILON = 1e-6
"""Of the norms; what transformers' ``config.json`` of DINO says, 1e-12, is another."""
PLACES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
OF_LAYERS = {
    "dino": {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    "dinov2": {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
}
PARTS = ("query", "key", "value")
"""What one matrix holds, in rows."""


def original_vit(
    leaves: Mapping[str, Leaf],
) -> tuple[dict[str, Any], Callable[[Shapes], dict[str, Leaf]]] | None:
    """(what its ``config.json`` would say, translation), or None if it is none of these."""
    bare = {name.removeprefix("module.").removeprefix("backbone."): leaf for name, leaf in leaves.items()}
    if "patch_embed.proj.weight" not in bare or "blocks.0.attn.qkv.weight" not in bare:
        return None
    kind = "dinov2" if "blocks.0.ls1.gamma" in bare else "dino"
    width, _, patch, _ = bare["patch_embed.proj.weight"].shape
    tokens = bare["pos_embed"].shape[1]
    config: dict[str, Any] = {
        "model_type": "dinov2" if kind == "dinov2" else "vit",
        "hidden_size": width,
        "num_attention_heads": width // HEAD,
        "num_hidden_layers": 1 + max(int(match[1]) for match in map(_LAYER.match, bare) if match),
        "patch_size": patch,
        "image_size": patch * round((tokens - 1) ** 0.5),
        "layer_norm_eps": EPSILON,
    }
    inner = bare["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in bare else 4 * width
    config |= {"mlp_ratio": inner // width} if kind == "dinov2" else {"intermediate_size": inner}
    return config, lambda shapes: _translated(bare, OF_LAYERS[kind])


_LAYER = re.compile(r"blocks\.(\d+)\.(.+)")


def _translated(leaves: Mapping[str, Leaf], places: Mapping[str, str]) -> dict[str, Leaf]:
    found: dict[str, Leaf] = {}
    for name, leaf in leaves.items():
        match = _LAYER.match(name)
        if match and match[2] in ("attn.qkv.weight", "attn.qkv.bias"):
            end = match[2].rpartition(".")[2]
            for number, part in enumerate(PARTS):
                found[f"encoder.layer.{match[1]}.attention.attention.{part}.{end}"] = _third(leaf, number)
        elif match:
            found[f"encoder.layer.{match[1]}.{_renamed(match[2], places)}"] = leaf
        else:
            found[_renamed(name, PLACES)] = leaf
    return found


def _renamed(name: str, places: Mapping[str, str]) -> str:
    """By the table, with or without what the array is; what is not in it stays, and is reported as extra."""
    stem, dot, end = name.rpartition(".")
    return places.get(name) or f"{places.get(stem, stem)}{dot}{end}"


def _third(leaf: Leaf, number: int) -> Leaf:
    size = leaf.shape[0] // len(PARTS)

    def part(array: np.ndarray) -> np.ndarray:
        return array[number * size : (number + 1) * size]

    return turned(leaf, part)
