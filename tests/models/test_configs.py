# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Every config.json that is out there is read; what asks for something else is named."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.models import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    ControlNetConfig,
    ControlNetModel,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
)
from dreambooth_jax.trees import count

FIXTURES = Path(__file__).parents[1] / "fixtures"
SD15_UNET = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768, "sample_size": 64, "act_fn": "silu"}
SD21_UNET = {
    **{"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True},
    **{"dual_cross_attention": False, "num_class_embeds": None, "upcast_attention": True, "sample_size": 96},
}
SD15_CONTROLNET = {
    **{"_class_name": "ControlNetModel", "cross_attention_dim": 768, "act_fn": "silu", "attention_head_dim": 8},
    **{"conditioning_embedding_out_channels": [16, 32, 96, 256], "global_pool_conditions": False},
    **{"controlnet_conditioning_channel_order": "rgb", "upcast_attention": False, "class_embed_type": None},
}
SD_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "force_upcast": True,
}
SD15_TEXT = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "model_type": "clip_text_model"},
    **{"torch_dtype": "float32", "bos_token_id": 0, "eos_token_id": 2, "projection_dim": 768, "dropout": 0.0},
}
SD21_TEXT = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23},
    **{"hidden_act": "gelu", "projection_dim": 512},
}


def parameters(module, *inputs):
    """How many scalars the module has, without making any."""
    return count(jax.eval_shape(module.init, jax.random.key(0), *inputs))


@pytest.mark.parametrize(
    ("raw", "expected"),
    # what the published checkpoints hold
    [(SD15_UNET, 859_520_964), (SD21_UNET, 865_910_724)],
    ids=["sd15", "sd21"],
)
def test_unet_size(raw, expected):
    config = UNetConfig.from_json(raw)
    latents, text = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 77, config.cross_attention_dim))
    assert parameters(UNet2DConditionModel(config), latents, jnp.zeros(1, jnp.int32), text) == expected


def test_controlnet_size():
    config = ControlNetConfig.from_json(SD15_CONTROLNET)
    latents, text = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 77, config.cross_attention_dim))
    picture = jnp.zeros((1, 64, 64, 3))
    assert config.downscale == 8
    assert parameters(ControlNetModel(config), latents, jnp.zeros(1, jnp.int32), text, picture) == 361_279_120


def test_vae_size():
    config = VAEConfig.from_json(SD_VAE)
    assert parameters(AutoencoderKL(config), jnp.zeros((1, 64, 64, 3))) == 83_653_863
    assert config.downscale == 8
    assert config.scaling_factor == 0.18215


@pytest.mark.parametrize(("raw", "expected"), [(SD15_TEXT, 123_060_480), (SD21_TEXT, 340_387_840)], ids=["1", "2"])
def test_text_encoder_size(raw, expected):
    module = CLIPTextModel(CLIPTextConfig.from_json(raw))
    assert parameters(module, jnp.zeros((1, 77), jnp.int32)) == expected


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_legacy_flax_configs(kind):
    folder = FIXTURES / f"legacy_flax_{kind}"
    unet, vae, text = (json.loads((folder / f / "config.json").read_text()) for f in ("unet", "vae", "text_encoder"))
    assert UNetConfig.from_json(unet).heads == ((4, 4) if kind == "sd15" else (2, 4))
    assert VAEConfig.from_json(vae).block_out_channels == (32, 64)
    assert CLIPTextConfig.from_json(text).num_hidden_layers == 3


def test_number_of_heads():
    """``attention_head_dim`` counts heads; ``num_attention_heads`` says the same by its right name, and wins."""
    assert UNetConfig.from_json({"attention_head_dim": 10}).heads == (10,) * 4
    assert UNetConfig.from_json(SD21_UNET).heads == (5, 10, 20, 20)
    assert UNetConfig.from_json({**SD21_UNET, "num_attention_heads": 5}).heads == (5,) * 4


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (UNetConfig, "_class_name", "UNet3DConditionModel"),
        (UNetConfig, "act_fn", "gelu"),
        (UNetConfig, "addition_embed_type", "text_time"),
        (UNetConfig, "attention_head_dim", 7),
        (UNetConfig, "attention_head_dim", [5, 10]),
        (UNetConfig, "block_out_channels", "320"),
        (UNetConfig, "center_input_sample", True),
        (UNetConfig, "class_embed_type", "timestep"),
        (UNetConfig, "cross_attention_dim", [768, 1024, 768, 768]),
        (UNetConfig, "down_block_types", ["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
        (UNetConfig, "dropout", 0.1),
        (UNetConfig, "dual_cross_attention", True),
        (UNetConfig, "encoder_hid_dim", 1024),
        (UNetConfig, "layers_per_block", [2, 2]),
        (UNetConfig, "layers_per_block", 1.5),
        (UNetConfig, "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        (UNetConfig, "mid_block_type", ["UNetMidBlock2D"]),
        (UNetConfig, "norm_num_groups", None),
        (UNetConfig, "num_attention_heads", [None, 5, 5, 5]),
        (UNetConfig, "norm_num_groups", 33),
        (UNetConfig, "only_cross_attention", "yes"),
        (UNetConfig, "reverse_transformer_layers_per_block", [1, None, 1, 1]),
        (UNetConfig, "transformer_layers_per_block", [1, [1], 1, 1]),
        (UNetConfig, "transformer_layers_per_block", [1, [1, [1]], 1, 1]),
        (UNetConfig, "transformer_layers_per_block", [1, [1, -1], 1, 1]),
        (UNetConfig, "transformer_layers_per_block", [1, [2, 2], 1, 1]),  # says nothing of the way up, which has more
        (UNetConfig, "resnet_time_scale_shift", "scale_shift"),
        (UNetConfig, "something_of_tomorrow", 3),
        (UNetConfig, "time_embedding_type", "fourier"),
        (VAEConfig, "block_out_channels", [128, 256]),
        (VAEConfig, "down_block_types", ["AttnDownEncoderBlock2D"]),
        (VAEConfig, "latents_mean", [0.1, 0.2, 0.3, 0.4]),
        (VAEConfig, "shift_factor", 0.1159),
        (VAEConfig, "use_quant_conv", False),
        (ControlNetConfig, "_class_name", "SparseControlNetModel"),
        (ControlNetConfig, "addition_embed_type", "text_time"),
        (ControlNetConfig, "conditioning_embedding_out_channels", 16),
        (ControlNetConfig, "conditioning_embedding_out_channels", [16, 0]),
        (ControlNetConfig, "controlnet_conditioning_channel_order", "gbr"),
        (ControlNetConfig, "down_block_types", ["DownBlock2D"] * 3),
        (ControlNetConfig, "mid_block_type", None),
        (CLIPTextConfig, "attention_dropout", 0.1),
        (CLIPTextConfig, "hidden_act", "relu"),
        (CLIPTextConfig, "hidden_size", "768"),
        (CLIPTextConfig, "model_type", "t5"),
        (CLIPTextConfig, "num_attention_heads", 7),
    ],
)
def test_what_we_lack_is_named(cls, key, value):
    with pytest.raises(InputError) as caught:
        cls.from_json({key: value}, file="here/config.json")
    assert str(caught.value).startswith("here/config.json: ")
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_asks_for_nothing_is_harmless():
    harmless = {
        **{"something_of_tomorrow": None, "another": False, "_anything": "at all", "shift_factor": 0.0},
        **{"mid_block_only_cross_attention": True, "split_head_dim": True, "addition_embed_type_num_heads": 64},
    }
    assert UNetConfig.from_json(harmless) == UNetConfig()


def test_numbers_have_their_fields_type():
    assert isinstance(VAEConfig.from_json({"scaling_factor": 1}).scaling_factor, float)
