# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How A1111 and ComfyUI find the layer that a name means, written down: every name of ours leads to one.

Both know layers by the names of the original code.
"""

import re

import pytest

from dreambooth_jax.weights.adapters.dialects import kohya_key
from tests.weights.adapters.test_names import kohya_targets
from tests.weights.adapters.test_names import layers as layers  # a fixture
from tests.weights.originals import Original

REAL = Original(
    model_channels=320, channel_mult=(1, 2, 4, 4), attention_levels=(0, 1, 2), num_res_blocks=2, context_dim=768,
    vae_channels=128, vae_mult=(1, 2, 4, 4), layers=12, vocabulary=49408,
)  # fmt: skip
RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
HEADS = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
}
TEXT = ("mlp_fc1", "mlp_fc2", *(f"self_attn_{x}_proj" for x in ("q", "k", "v", "out")))


@pytest.fixture(scope="module")
def original():
    """Names of the layers that have a weight, of both networks, with underscores."""
    names = [name.removesuffix(".weight") for name in REAL.shapes() if name.endswith(".weight")]
    unet = {n.removeprefix("model.diffusion_model.").replace(".", "_") for n in names if n.startswith("model.")}
    text = {n.removeprefix("cond_stage_model.").replace(".", "_") for n in names if n.startswith("cond_stage_model.")}
    return unet, text


def a1111(name):
    """What A1111 looks for where it reads a name of sd-scripts: (network, name of the layer)."""
    if match := re.fullmatch(r"lora_te_text_model_encoder_layers_(\d+)_(.+)", name):
        return "text", f"transformer_text_model_encoder_layers_{match[1]}_{match[2]}"
    inner = name.removeprefix("lora_unet_")
    if inner in HEADS:
        return "unet", HEADS[inner]
    if match := re.fullmatch(r"(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", inner):
        number = 3 * int(match[2]) + int(match[4])
        row, number = ("input_blocks", 1 + number) if match[1] == "down" else ("output_blocks", number)
        part = f"1_{match[5]}" if match[3] == "attentions" else f"0_{RESNET.get(match[5], match[5])}"
        return "unet", f"{row}_{number}_{part}"
    if match := re.fullmatch(r"mid_block_(attentions|resnets)_(\d+)_(.+)", inner):
        if match[1] == "attentions":
            return "unet", f"middle_block_1_{match[3]}"
        return "unet", f"middle_block_{2 * int(match[2])}_{RESNET.get(match[3], match[3])}"
    if match := re.fullmatch(r"down_blocks_(\d+)_downsamplers_0_conv", inner):
        return "unet", f"input_blocks_{3 + 3 * int(match[1])}_0_op"
    if match := re.fullmatch(r"up_blocks_(\d+)_upsamplers_0_conv", inner):
        return "unet", f"output_blocks_{2 + 3 * int(match[1])}_{2 if int(match[1]) else 1}_conv"
    return "unet", inner


def comfyui(unet):
    """The names that ComfyUI has a layer for, of Stable Diffusion 1.5."""
    known = {f"lora_unet_{name}" for name in unet}
    known |= {f"lora_te_text_model_encoder_layers_{i}_{part}" for i in range(12) for part in TEXT}
    for block in range(4):
        for layer in range(3):
            for row, count in (("down_blocks", 2), ("up_blocks", 3)):
                if layer < count:
                    known |= {f"lora_unet_{row}_{block}_resnets_{layer}_{part}" for part in RESNET}
                    known |= {f"lora_unet_{row}_{block}_attentions_{layer}_{part}" for part in transformer()}
        known |= {
            f"lora_unet_down_blocks_{block}_downsamplers_0_conv",
            f"lora_unet_up_blocks_{block}_upsamplers_0_conv",
        }
    known |= {f"lora_unet_mid_block_attentions_0_{part}" for part in transformer()}
    known |= {f"lora_unet_mid_block_resnets_{layer}_{part}" for layer in (0, 1) for part in RESNET}
    return known | {f"lora_unet_{name}" for name in HEADS}


def transformer():
    inside = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")]
    inside += ["ff_net_0_proj", "ff_net_2", "norm1", "norm2", "norm3"]
    return ["norm", "proj_in", "proj_out", *(f"transformer_blocks_0_{name}" for name in inside)]


@pytest.fixture(scope="module")
def ours(layers):
    """Names of all layers with a kernel: what any targets could choose; of the text encoder the usual ones."""
    unet = [path for path, shape in layers["unet"].items() if len(shape) in (2, 4)]
    paths = [*(("unet", path) for path in unet), *(("text_encoder", p) for p in kohya_targets(layers)["text_encoder"])]
    return [kohya_key(network, path, "alpha").removesuffix(".alpha") for network, path in paths]


def test_a1111_finds_the_layer_of_every_name(ours, original):
    unet, text = original
    found = [a1111(name) for name in ours]
    assert len(set(found)) == len(ours) > 300
    for network, name in found:
        assert name in {"unet": unet, "text": text}[network], name


def test_comfyui_knows_every_name(ours, original):
    assert set(ours) <= comfyui(original[0])
