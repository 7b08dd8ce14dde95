# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Stable Diffusion's own configurations, XL's among them, and random weights that are drawn while they are written."""

import json
import math
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TOKENIZER = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "legacy_flax_sd15" / "tokenizer"
"""Not SD 1.5's own: small, and all of its ids are in SD 1.5's range."""
TOKENIZERS = {"tokenizer": TOKENIZER, "tokenizer_2": TOKENIZER.parents[1] / "legacy_flax_sd21" / "tokenizer"}
"""By their folders in a model."""

# fmt: off
SD15: dict[str, dict[str, Any]] = {
    "unet": {
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "downsample_padding": 1,
        "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
        "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae": {
        "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
        "norm_num_groups": 32, "out_channels": 3, "sample_size": 512, "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0,
        "eos_token_id": 2, "hidden_act": "quick_gelu", "hidden_size": 768, "initializer_factor": 1.0,
        "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
        "model_type": "clip_text_model", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
        "projection_dim": 768, "torch_dtype": "float32", "vocab_size": 49408,
    },
    "scheduler": {
        "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None,
    },
}
SD21: dict[str, dict[str, Any]] = {
    "unet": {
        "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 96,
        "use_linear_projection": True,
    },
    "vae": {"sample_size": 768},
    "text_encoder": {
        "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 23, "projection_dim": 512,
    },
    "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
}
SDXL: dict[str, dict[str, Any]] = {
    "unet": SD15["unet"] | {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "projection_class_embeddings_input_dim": 2816, "sample_size": 128, "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], "use_linear_projection": True,
    },
    "vae": SD15["vae"] | {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025},
    "text_encoder": SD15["text_encoder"],
    "text_encoder_2": SD15["text_encoder"] | {
        "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu", "hidden_size": 1280,
        "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280,
    },
    "scheduler": SD15["scheduler"] | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}
TWO_BLOCKS: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [32, 64], "cross_attention_dim": 32, "layers_per_block": 1, "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "vae": {
        "block_out_channels": [32, 64], "layers_per_block": 1, "sample_size": 16,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    },
    "text_encoder": {
        "hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
        "projection_dim": 32, "vocab_size": 553,
    },
    "scheduler": {},
}
MINI: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [64, 128, 256, 256], "cross_attention_dim": 256, "sample_size": 32},
    "vae": {"block_out_channels": [32, 64, 128, 128], "sample_size": 256},
    "text_encoder": {
        "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_hidden_layers": 4,
        "projection_dim": 256, "vocab_size": 553,
    },
    "scheduler": {},
}
TINY_XL: dict[str, dict[str, Any]] = {
    "unet": SDXL["unet"] | TWO_BLOCKS["unet"] | {
        "addition_time_embed_dim": 8, "attention_head_dim": [2, 4], "cross_attention_dim": 32 + 48,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "transformer_layers_per_block": [1, 2],
        "projection_class_embeddings_input_dim": 6 * 8 + 40, "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae": SDXL["vae"] | TWO_BLOCKS["vae"],
    "text_encoder": TWO_BLOCKS["text_encoder"],
    "text_encoder_2": SDXL["text_encoder_2"] | TWO_BLOCKS["text_encoder"] | {"hidden_size": 48, "projection_dim": 40},
    "scheduler": SDXL["scheduler"],
}
# fmt: on
SIZES = {
    "sd15": SD15,
    **{
        size: {part: config | changes[part] for part, config in SD15.items()}
        for size, changes in {"sd21": SD21, "mini": MINI, "tiny": TWO_BLOCKS}.items()
    },
    "sdxl": SDXL,
    "tiny_xl": TINY_XL,
}
"""Size -> the configurations of its parts."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a size is made and tried.

    Attributes:
        pipeline_class: of its kind of model.
        dtype: of its files, and of its parameters where they are only loaded; what computes has them in float32.
        pixels: side of the pictures that are drawn; None is the model's own.
        side: of the latents in the call beside PyTorch's; None is that of the pictures' latents.
        xla_flags: with which its other programs than training's are compiled.
        stages: that are run unless others are asked for; none stands for all.
    """

    pipeline_class: str = "StableDiffusionPipeline"
    dtype: str = "float32"
    pixels: int | None = None
    side: int | None = None
    xla_flags: str = ""
    stages: tuple[str, ...] = ()


_XL = Made(
    pipeline_class="StableDiffusionXLPipeline",
    dtype="bfloat16",  # 6.9 GB, of which float32 would take twice that
    pixels=512,
    side=16,
    xla_flags="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",  # half the time, on a CPU
    stages=("build", "load", "unet", "torch", "compiled", "sample"),  # its whole UNet with AdamW in float32 takes 41 GB
)
MADE: dict[str, Made] = {"sdxl": _XL, "tiny_xl": replace(_XL, pixels=None, side=None)}
"""Of sizes that are not made as Stable Diffusion 1 and 2 are."""


def made(size: str) -> Made:
    """How a size is made."""
    return MADE.get(size, Made())


@dataclass(frozen=True, kw_only=True)
class RandomLeaf:
    """Weights that exist only while they are written, and keep the size of what passes through them."""

    name: str
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        array = np.random.default_rng(zlib.crc32(self.name.encode())).standard_normal(self.shape, np.float32)
        kind = self.name.rsplit("/", 1)[-1]
        array *= {"kernel": math.prod(self.shape[:-1]) ** -0.5, "embedding": 1.0}.get(kind, 0.1)
        array += kind == "scale"
        return array


def write_model(folder: Path, size: str) -> dict[str, int]:
    """A folder in the diffusers layout, of safetensors. Returns each part's number of parameters."""
    from dreambooth_jax.models.families import family_of
    from dreambooth_jax.trees import count, map_named, unflatten
    from dreambooth_jax.weights.modules import build_modules, parameter_shapes
    from dreambooth_jax.weights.writing import write_folder

    configs, family = SIZES[size], family_of(made(size).pipeline_class)
    modules = build_modules(configs, family)
    shapes = {part: unflatten(parameter_shapes(family.components[part], module)) for part, module in modules.items()}
    write_folder(
        folder,
        params=map_named(lambda name, leaf: RandomLeaf(name=name, shape=leaf.shape), shapes),
        configs=configs,
        scheduler_config=configs["scheduler"],
        tokenizers={name: TOKENIZERS[name] for name in family.text_encoders.values()},
        family=family,
        dtype=made(size).dtype,
    )
    return {part: count(tree) for part, tree in shapes.items()}


def write_skeleton(folder: Path, size: str) -> Path:
    """The same folder without weights: what ``dreambooth-jax plan`` needs of a model."""
    for part, config in SIZES[size].items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config, indent=2))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": made(size).pipeline_class}))
    for name, tokenizer in TOKENIZERS.items():
        if name.replace("tokenizer", "text_encoder") in SIZES[size]:
            shutil.copytree(tokenizer, folder / name, dirs_exist_ok=True)
    return folder
