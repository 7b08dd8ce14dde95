# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""ControlNets in single files of the original code, as A1111 and ComfyUI keep them.

diffusers                                   original, behind control_model.
down_blocks.0.attentions.1.proj_in.weight   input_blocks.2.1.proj_in.weight: as of the denoiser
controlnet_cond_embedding.blocks.3.bias     input_hint_block.8.bias: every second place is an activation
controlnet_down_blocks.4.weight             zero_convs.4.0.weight
controlnet_mid_block.weight                 middle_block_out.0.weight
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from dreambooth_jax.models.configs import UNetConfig, UNetEncoderConfig
from dreambooth_jax.models.controlnet import ControlNetConfig
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.ldm import Stored, unet_place
from dreambooth_jax.weights.ldm_configs import side_of, unet_config
from dreambooth_jax.weights.single_file import translated

PREFIX = "control_model."
_HINT = "input_hint_block"


def original_controlnet(
    leaves: Mapping[str, Leaf],
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], dict[str, Leaf]]] | None:
    """(what its config.json would say, translation of its arrays), or None if the file holds no ControlNet.

    Shapes do not tell whether positions are pooled, as those for shuffled pictures do.
    """
    mine = {PREFIX + name.removeprefix(PREFIX): leaf for name, leaf in leaves.items()}
    if f"{PREFIX}{_HINT}.0.weight" not in mine:
        return None
    config = control_config({name: leaf.shape for name, leaf in mine.items()})
    read = ControlNetConfig.from_json(config)
    return config, lambda shapes: translated(mine, shapes, read, control_place, prefix=PREFIX)


def control_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the ``config.json`` of a file would say, by the shapes of its arrays.

    Raises:
        InputError: naming the array that is missing.
    """
    mine = {name.removeprefix(PREFIX): shape for name, shape in shapes.items()}
    unet = unet_config(mine | {"out.2.weight": (4,)})
    back = ("out_channels", "up_block_types", "reverse_transformer_layers_per_block")
    shared = {name: value for name, value in unet.items() if name not in back}
    numbers = sorted(
        int(match[1]) for name in shapes if (match := re.fullmatch(rf"{PREFIX}{_HINT}\.(\d{{1,4}})\.weight", name))
    )
    halving = [number for number in numbers[:-1] if number % 4 == 0]
    return shared | {
        "_class_name": "ControlNetModel",
        "conditioning_channels": side_of(shapes, f"{PREFIX}{_HINT}.0.weight", 1),
        "conditioning_embedding_out_channels": [
            side_of(shapes, f"{PREFIX}{_HINT}.{number}.weight", 0) for number in halving
        ],
    }


def control_place(config: ControlNetConfig, name: str) -> Stored:
    """Of a parameter of a ControlNet, by its name in diffusers.

    >>> control_place(ControlNetConfig(), "controlnet_cond_embedding.conv_out.bias").key
    'input_hint_block.14.bias'
    """
    last = 4 * len(config.conditioning_embedding_out_channels) - 2
    for pattern, key in (
        (r"controlnet_cond_embedding\.conv_in\.(\w+)", lambda m: f"{_HINT}.0.{m[1]}"),
        (r"controlnet_cond_embedding\.blocks\.(\d+)\.(\w+)", lambda m: f"{_HINT}.{2 * int(m[1]) + 2}.{m[2]}"),
        (r"controlnet_cond_embedding\.conv_out\.(\w+)", lambda m: f"{_HINT}.{last}.{m[1]}"),
        (r"controlnet_down_blocks\.(\d+)\.(\w+)", lambda m: f"zero_convs.{m[1]}.0.{m[2]}"),
        (r"controlnet_mid_block\.(\w+)", lambda m: f"middle_block_out.0.{m[1]}"),
    ):
        if match := re.fullmatch(pattern, name):
            return Stored(key(match))
    return unet_place(_unet_of(config), name)


def _unet_of(config: ControlNetConfig) -> UNetConfig:
    """The denoiser whose copy it is."""
    shared = {field.name: getattr(config, field.name) for field in fields(UNetEncoderConfig)}
    up = tuple(kind.replace("Down", "Up") for kind in reversed(config.down_block_types))
    return UNetConfig(**shared, up_block_types=up, reverse_transformer_layers_per_block=1)
