# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How sd-scripts name the layers of Stable Diffusion XL: all of a real one's, of which no weight is made."""

import pytest

from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.models.families import SDXL
from dreambooth_jax.weights.adapters.dialects import kohya_key, kohya_modules, peft_key, read_key
from dreambooth_jax.weights.modules import build_modules, parameter_shapes

UNET = {
    **{"block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048},
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    **{"transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True},
    **{"addition_embed_type": "text_time", "addition_time_embed_dim": 256},
    **{"projection_class_embeddings_input_dim": 2816},
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
TEXT_2 = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32},
    **{"hidden_act": "gelu", "projection_dim": 1280, "eos_token_id": 2},
}
VAE = {
    **{"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
    **{"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4},
}
CONFIGS = {"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT_2, "vae": VAE}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """(its modules, names of all leaves)."""
    modules = build_modules(CONFIGS, SDXL)
    kinds = SDXL.components
    leaves = [f"{name}/{leaf}" for name, module in modules.items() for leaf in parameter_shapes(kinds[name], module)]
    return modules, leaves


def split(layer):
    network, _, path = layer.removesuffix("/kernel").partition("/")
    return network, path


def test_default_targets_are_those_of_sd_scripts(model):
    """722 layers of the UNet in 11 transformers, 72 and 192 of the text encoders."""
    modules, leaves = model
    layers = choose_layers(unet=("attn-mlp",), text_encoder=("attn-mlp",))(leaves)
    names = kohya_modules(SDXL.naming, modules["unet"].config)
    found = {names(*split(layer)) for layer in layers}
    depths = {
        **dict.fromkeys(("input_blocks_4_1", "input_blocks_5_1"), 2),
        **dict.fromkeys(("input_blocks_7_1", "input_blocks_8_1", "middle_block_1"), 10),
        **{f"output_blocks_{i}_1": 10 if i < 3 else 2 for i in range(6)},
    }
    attention = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")]
    unet = {f"lora_unet_{block}_{proj}" for block in depths for proj in ("proj_in", "proj_out")}
    unet |= {
        f"lora_unet_{block}_transformer_blocks_{i}_{part}"
        for block, depth in depths.items()
        for i in range(depth)
        for part in (*attention, "ff_net_0_proj", "ff_net_2")
    }
    parts = ["self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]
    first, second = (
        {f"lora_te{n}_text_model_encoder_layers_{i}_{part}" for i in range(count) for part in parts}
        for n, count in ((1, 12), (2, 32))
    )
    assert (len(unet), len(first), len(second)) == (722, 72, 192)
    assert found == unet | first | second


def test_all_layers_come_back_from_their_names(model):
    modules, leaves = model
    names = kohya_modules(SDXL.naming, modules["unet"].config)
    layers = [layer for layer in leaves if layer.endswith("/kernel") and not layer.startswith("vae/")]
    assert len({names(*split(layer)) for layer in layers}) == len(layers)
    for layer in layers:
        network, path = split(layer)
        assert read_key(kohya_key(network, path, "lora_up", names))[1:] == (network, path, "lora_up")
        assert read_key(peft_key(network, path, "lora_down"))[1:] == (network, path, "lora_down")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lora_unet_time_embed_2", "time_embedding/linear_2"),
        ("lora_unet_label_emb_0_0", "add_embedding/linear_1"),
        ("lora_unet_input_blocks_3_0_op", "down_blocks_0/downsamplers_0/conv"),
        ("lora_unet_output_blocks_2_2_conv", "up_blocks_0/upsamplers_0/conv"),
        ("lora_unet_input_blocks_4_0_skip_connection", "down_blocks_1/resnets_0/conv_shortcut"),
        ("lora_unet_middle_block_2_out_layers_3", "mid_block/resnets_1/conv2"),
        ("lora_unet_out_2", "conv_out"),
    ],
)
def test_layers_that_are_no_transformers(model, name, path):
    assert kohya_modules(SDXL.naming, model[0]["unet"].config)("unet", path) == name
