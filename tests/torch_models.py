# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tiny random PyTorch networks of each kind of Stable Diffusion: the oracles of the parity tests.

Every leaf is random, biases and norms too, so that none can be mixed up with another or forgotten. PyTorch is imported
by the functions only. Their vocabulary is that of the tokenizer in ``fixtures/legacy_flax_*/tokenizer``.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreambooth_jax.trees import unflatten

KINDS = ("sd15", "sd21_base", "sd21")
XL = "sdxl"
"""Stable Diffusion XL, which has a second text encoder."""
REFINER = "sdxl_refiner"
"""Its refiner, which has the second alone, and is told five numbers."""

_UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,  # of several channels each, as in the real networks
    "cross_attention_dim": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_SD2 = {"attention_head_dim": (2, 4), "use_linear_projection": True}
_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {**_UNET, "sample_size": 8, "attention_head_dim": 4},
    "sd21_base": {**_UNET, **_SD2, "sample_size": 8},
    "sd21": {**_UNET, **_SD2, "sample_size": 12, "upcast_attention": True},
    XL: {
        **{**_UNET, **_SD2, "sample_size": 8, "cross_attention_dim": 32 + 48},
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 40 + 6 * 8,
    },
}
_VAE = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "sample_size": 16,
}
_UNETS[REFINER] = {**_UNETS[XL], "cross_attention_dim": 48, "projection_class_embeddings_input_dim": 40 + 5 * 8}
_VAES = {XL: {"scaling_factor": 0.13025, "force_upcast": True}}
_TEXT = {
    "vocab_size": 553,
    "hidden_size": 32,
    "intermediate_size": 69,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 551,
    "eos_token_id": 552,
}
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@dataclass(frozen=True, kw_only=True)
class TorchModels:
    """The networks of one pipeline, in eval mode."""

    kind: str
    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any = None


def build(kind: str, *, seed: int = 0, double: bool = False, **unet_options: Any) -> TorchModels:
    """Networks with random weights; ``double``: in float64. ``unet_options`` go into the UNet's config."""
    return TorchModels(
        kind=kind,
        unet=build_unet(kind, seed=seed, double=double, **unet_options),
        vae=build_vae(seed=seed + 1, double=double, **_VAES.get(kind, {})),
        text_encoder=build_text_encoder(kind, seed=seed + 2, double=double),
        text_encoder_2=build_text_encoder_2(seed=seed + 3, double=double) if kind == XL else None,
    )


def build_unet(kind: str, *, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``diffusers.UNet2DConditionModel``."""
    import diffusers

    unet = diffusers.UNet2DConditionModel(**{**_UNETS[kind], **options})
    if double:  # theirs computes in float32, whatever the weights are
        unet.time_proj = _double_timesteps(unet.config, unet.config.block_out_channels[0])
        if unet.config.addition_embed_type:
            unet.add_time_proj = _double_timesteps(unet.config, unet.config.addition_time_embed_dim)
    return _randomised(unet, seed, double)


def build_controlnet(kind: str, *, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``diffusers.ControlNetModel`` that fits the UNet and the VAE, its convolutions of zeros random, too."""
    import diffusers

    shape = {name: value for name, value in _UNETS[kind].items() if name not in ("sample_size", "up_block_types")}
    net = diffusers.ControlNetModel(**{**shape, "conditioning_embedding_out_channels": (8, 16), **options})
    if double:
        net.time_proj = _double_timesteps(net.config, net.config.block_out_channels[0])
        if net.config.addition_embed_type:
            net.add_time_proj = _double_timesteps(net.config, net.config.addition_time_embed_dim)
    return _randomised(net, seed, double)


def build_image_encoder(*, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``transformers.CLIPVisionModelWithProjection``."""
    import transformers

    shape = {name: value for name, value in _TEXT.items() if name.startswith(("hidden", "inter", "num"))}
    config = transformers.CLIPVisionConfig(
        **{**shape, "image_size": 12, "patch_size": 4, "projection_dim": 24, **options}
    )
    return _randomised(transformers.CLIPVisionModelWithProjection(config), seed, double)


def build_clip(*, seed: int = 0, double: bool = False, text: Any = (), vision: Any = (), **options: Any) -> Any:
    """A ``transformers.CLIPModel``."""
    import transformers

    shape = {name: value for name, value in _TEXT.items() if name.startswith(("hidden", "inter", "num"))}
    config = transformers.CLIPConfig(
        text_config={**_TEXT, **dict(text)},
        vision_config={**shape, "image_size": 12, "patch_size": 4, **dict(vision)},
        **{"projection_dim": 24, **options},
    )
    return _randomised(transformers.CLIPModel(config), seed, double)


def build_dino(name: str, *, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``transformers.ViTModel`` without what classifies, or a ``transformers.Dinov2Model``."""
    import transformers

    shape = {name: value for name, value in _TEXT.items() if name.startswith(("hidden", "num"))}
    config = getattr(transformers, f"{name}Config")(**{**shape, "image_size": 12, "patch_size": 4, **options})
    without = {"add_pooling_layer": False} if name == "ViT" else {}
    model = _randomised(getattr(transformers, f"{name}Model")(config, **without), seed, double)
    if double and name == "Dinov2":  # theirs moves positions in float32, whatever the weights are
        model.embeddings.interpolate_pos_encoding = _double_positions(model.embeddings)
    return model


def build_t2i_adapter(*, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``diffusers.T2IAdapter`` that fits the UNet and the VAE."""
    import diffusers

    shape = {"channels": [32, 64], "num_res_blocks": 2, "downscale_factor": 2}
    return _randomised(diffusers.T2IAdapter(**{**shape, **options}), seed, double)


def build_vae(*, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``diffusers.AutoencoderKL``."""
    import diffusers

    return _randomised(diffusers.AutoencoderKL(**{**_VAE, **options}), seed, double)


def build_text_encoder(kind: str, *, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``transformers.CLIPTextModel``."""
    import transformers

    act = "quick_gelu" if kind in ("sd15", XL) else "gelu"
    config = transformers.CLIPTextConfig(**{**_TEXT, "hidden_act": act, **options})
    return _randomised(transformers.CLIPTextModel(config), seed, double)


def build_text_encoder_2(*, seed: int = 0, double: bool = False, **options: Any) -> Any:
    """A ``transformers.CLIPTextModelWithProjection``, wider, whose file does not know the token at a text's end."""
    import transformers

    shape = {**_TEXT, "hidden_size": 48, "num_hidden_layers": 3, "eos_token_id": 2, "hidden_act": "gelu"}
    config = transformers.CLIPTextConfig(**{**shape, "projection_dim": 40, **options})
    return _randomised(transformers.CLIPTextModelWithProjection(config), seed, double)


def scheduler_config(kind: str) -> dict[str, Any]:
    """What ``scheduler_config.json`` says for this kind."""
    return {**_SCHEDULER, "prediction_type": "v_prediction" if kind == "sd21" else "epsilon"}


def config_json(model: Any) -> dict[str, Any]:
    """What the model writes into its ``config.json``."""
    writer = model if hasattr(model, "to_json_string") else model.config
    return json.loads(writer.to_json_string())


def params_from_torch(model: Any, value: Callable[[Any], Any] = lambda parameter: parameter.detach()) -> dict[str, Any]:
    """Our nested dict of numpy arrays, by the type of the PyTorch module that each parameter belongs to.

    ``value``: what to take of each parameter, such as its gradient.
    """
    leaves = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            leaf, array = _leaf(type(module).__name__, name, value(parameter).numpy())
            leaves["/".join([*re.sub(r"\.(\d+)", r"_\1", path).split("."), leaf])] = array
    text_encoder = type(model).__name__ == "CLIPTextModel"
    prefix = "text_model/" if text_encoder and not any(name.startswith("text_model/") for name in leaves) else ""
    return unflatten({prefix + name: array for name, array in leaves.items()})


def _leaf(module: str, name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if name == "bias":
        return name, array
    return {
        "Conv2d": lambda: ("kernel", array.transpose(2, 3, 1, 0)),
        "Linear": lambda: ("kernel", array.T),
        "CLIPVisionEmbeddings": lambda: (name, array),
        "Embedding": lambda: ("embedding", array),
        "GroupNorm": lambda: ("scale", array),
        "LayerNorm": lambda: ("scale", array),
    }[module]()


def _randomised(model: Any, seed: int, double: bool) -> Any:
    """Weights that keep the size of what passes through them, norms around one, biases around zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                noise *= 1 if "embedding.weight" in name else parameter[0].numel() ** -0.5
            elif name.endswith("weight"):
                noise = 1 + 0.2 * noise
            else:
                noise *= 0.2
            parameter.copy_(noise)
    return (model.double() if double else model).eval()


def _double_positions(embeddings: Any) -> Any:
    import torch

    def positions(tokens: Any, height: int, width: int) -> Any:
        known, (rows, columns) = embeddings.position_embeddings, embeddings.patch_embeddings.patch_size
        size = height // rows, width // columns
        side = round((known.shape[1] - 1) ** 0.5)
        grid = known[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        moved = torch.nn.functional.interpolate(grid, size=size, mode="bicubic").permute(0, 2, 3, 1)
        return torch.cat([known[:, :1], moved.reshape(1, -1, moved.shape[-1])], dim=1)

    return positions


def _double_timesteps(config: Any, size: int) -> Any:
    import torch

    class Timesteps(torch.nn.Module):
        def forward(self, timesteps: Any) -> Any:
            half = size // 2
            powers = torch.arange(half, dtype=torch.float64) / (half - config.freq_shift)
            angles = timesteps.double()[:, None] * 10000.0**-powers
            parts = [torch.sin(angles), torch.cos(angles)]
            return torch.cat(parts[::-1] if config.flip_sin_to_cos else parts, dim=-1)

    return Timesteps()
