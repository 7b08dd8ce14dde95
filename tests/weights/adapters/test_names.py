# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Names of layers in files, against the real networks."""

import re

import pytest

from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.families import SD
from dreambooth_jax.trees import flatten, unflatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.adapters.dialects import kohya_key, peft_key, read_key
from dreambooth_jax.weights.adapters.paths import (
    dotted_name,
    from_dotted,
    from_kohya,
    kohya_name,
    layers_of,
    original_name,
)
from dreambooth_jax.weights.ldm import unet_place
from dreambooth_jax.weights.modules import parameter_shapes

CONFIGS = {
    "unet": UNetConfig(cross_attention_dim=768),
    "text_encoder": CLIPTextConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072),
}


@pytest.fixture(scope="module")
def layers():
    """network -> path of each of its layers -> shape of its kernel, of Stable Diffusion 1.5."""
    found = {}
    for network, config in CONFIGS.items():
        kind = SD.components[network]
        shapes = flatten(parameter_shapes(kind, kind.build(config)))
        found[network] = {name.rpartition("/")[0]: leaf.shape for name, leaf in shapes.items()}
    return found


def kohya_targets(layers):
    """What sd-scripts train by default: linear layers and 1×1 convolutions of transformers; attention, MLP of CLIP."""
    unet = [path for path, shape in layers["unet"].items() if "attentions_" in path and len(shape) in (2, 4)]
    text = [path for path, shape in layers["text_encoder"].items() if re.search("self_attn|mlp", path)]
    return {"unet": unet, "text_encoder": text}


def test_all_layers_of_the_real_networks_come_back_from_every_name(layers):
    for network, paths in layers.items():
        assert len({kohya_name(path) for path in paths}) == len(paths), "no two have the same name"
        for path in paths:
            assert from_kohya(kohya_name(path)) == path
            assert from_dotted(dotted_name(path)) == path
            assert read_key(kohya_key(network, path, "lora_up"))[1:] == (network, path, "lora_up")
            assert read_key(peft_key(network, path, "lora_down"))[1:] == (network, path, "lora_down")


def test_names_that_count_blocks_as_the_original_code_does(layers):
    for path in layers["unet"]:
        theirs = unet_place(CONFIGS["unet"], names.torch_name(f"{path}/kernel")).key
        name = theirs.removesuffix(".weight").replace(".", "_")
        assert name != kohya_name(path)
        assert from_kohya(name) == path


def test_blocks_of_other_depths_are_counted():
    """As of a denoiser whose blocks have one, three and two layers."""
    config = UNetConfig(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=(1, 3, 2),
        mid_block_type="UNetMidBlock2D",
    )
    kind = SD.components["unet"]
    shapes = parameter_shapes(kind, kind.build(config))
    counted = layers_of(unflatten(shapes))
    assert counted == (1, 3, 2)
    for path in {name.rpartition("/")[0] for name in shapes}:
        name = original_name(config, path)
        assert from_kohya(name, counted) == path
        assert read_key(f"lora_unet_{name}.lora_up.weight", counted).path == path
    assert from_kohya("input_blocks_40_0_op", counted) is None
    for name in ("input_blocks_3_0_op", "input_blocks_2_1_proj_in", "output_blocks_1_1_conv"):  # of other layers
        assert from_kohya(name, counted) is None


def test_default_targets_are_those_of_sd_scripts(layers):
    """192 and 72 modules, named as FIELD's rule spells them."""
    targets = kohya_targets(layers)
    found = {kohya_key(network, path, "alpha") for network, paths in targets.items() for path in paths}
    attention = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")]
    inside = ["proj_in", "proj_out", *(f"transformer_blocks_0_{x}" for x in (*attention, "ff_net_0_proj", "ff_net_2"))]
    blocks = [
        *(f"down_blocks_{b}_attentions_{i}" for b in (0, 1, 2) for i in (0, 1)),
        "mid_block_attentions_0",
        *(f"up_blocks_{b}_attentions_{i}" for b in (1, 2, 3) for i in (0, 1, 2)),
    ]
    parts = ["self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]
    unet = {f"lora_unet_{block}_{part}.alpha" for block in blocks for part in inside}
    text = {f"lora_te_text_model_encoder_layers_{i}_{part}.alpha" for i in range(12) for part in parts}
    assert (len(unet), len(text)) == (192, 72)
    assert found == unet | text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "unet/mid_block/attentions_0/proj_in/lora_down"),
        ("unet.mid_block.attentions.0.proj_in.lora_B.default.weight", "unet/mid_block/attentions_0/proj_in/lora_up"),
        ("base_model.model.unet.conv_in.lora_A.weight", "unet/conv_in/lora_down"),
        ("down_blocks.0.resnets.0.conv1.lora_B.weight", "unet/down_blocks_0/resnets_0/conv1/lora_up"),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight",
            "unet/mid_block/attentions_0/transformer_blocks_0/attn1/to_out_0/lora_down",
        ),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight",
            "unet/mid_block/attentions_0/transformer_blocks_0/attn1/to_out_0/lora_up",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_q_lora.down.weight",
            "unet/mid_block/attentions_0/transformer_blocks_0/attn2/to_q/lora_down",
        ),
        (
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight",
            "text_encoder/text_model/encoder/layers_0/mlp/fc1/lora_up",
        ),
        (
            "text_encoder.encoder.layers.11.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder/text_model/encoder/layers_11/self_attn/q_proj/lora_up",
        ),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora.down.weight",
            "text_encoder/text_model/encoder/layers_3/self_attn/out_proj/lora_down",
        ),
        ("unet.conv_in.lora_magnitude_vector", "unet/conv_in/magnitude"),
        ("unet.conv_in.lora_magnitude_vector.weight", "unet/conv_in/magnitude"),
        ("unet.conv_in.alpha", "unet/conv_in/alpha"),
        ("unet.conv_in.lokr_w1", "unet/conv_in/lokr_w1"),
        ("lora_te2_text_model_encoder_layers_31_mlp_fc2.hada_w1_a",
         "text_encoder_2/text_model/encoder/layers_31/mlp/fc2/hada_w1_a"),
        ("lycoris_mid_block_resnets_1_conv1.diff_b", "unet/mid_block/resnets_1/conv1/diff_b"),
        ("lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj.alpha",
         "unet/mid_block/attentions_0/transformer_blocks_9/ff/net_0/proj/alpha"),
        ("lora_unet_input_blocks_3_0_op.lora_mid.weight", "unet/down_blocks_0/downsamplers_0/conv/lora_mid"),
        ("lora_unet_mid_block_resnets_0_norm1.w_norm", "unet/mid_block/resnets_0/norm1/w_norm"),
    ],
)  # fmt: skip
def test_forms_that_files_have(name, expected):
    key = read_key(name)
    assert "/".join((key.network, key.path, key.tensor)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "unet.conv_in.weight",
        "lora_unet_.alpha",
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "lora_unet_middle_block_7_proj_in.alpha",
        "lora_unet_mid_block.nonsense",
        "bundle_emb.sks.string_to_param.*",
        "emb_params",
        "",
        ".",
    ],
)
def test_what_is_no_tensor_of_an_adapter(name):
    assert read_key(name) is None
