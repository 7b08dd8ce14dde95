# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Shapes of the published files tell the published configurations; of nonsense they tell one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_configs import CLIPTextConfig, CLIPTextProjectionConfig
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.weights.layouts import SD1 as LAYOUT_1
from dreambooth_jax.weights.layouts import SD2 as LAYOUT_2
from dreambooth_jax.weights.layouts import XL as LAYOUT_XL
from dreambooth_jax.weights.layouts import XL_REFINER as LAYOUT_REFINER
from tests.weights.originals import Original, OriginalXL, open_clip_layer

_REAL = {"model_channels": 320, "channel_mult": (1, 2, 4, 4), "attention_levels": (0, 1, 2), "num_res_blocks": 2} | {
    "vae_channels": 128,
    "vae_mult": (1, 2, 4, 4),
    "vocabulary": 49408,
}
SD1 = Original(**_REAL, context_dim=768, layers=12)
SD2 = Original(**_REAL, context_dim=1024, layers=23, version=2)

XL = OriginalXL(
    **(_REAL | {"channel_mult": (1, 2, 4), "attention_levels": (1, 2)}), depths=(0, 2, 10), context_dim=2048,
    clip_width=768, layers=12, open_clip_width=1280, open_clip_layers=32, projection=1280,
)  # fmt: skip
TINY = {LAYOUT_1: Original(), LAYOUT_2: Original(version=2), LAYOUT_XL: OriginalXL()}


def sd2_shapes():
    """The published file has a layer more than is used, and a projection."""
    top = "cond_stage_model.model."
    unused = dict(open_clip_layer(f"{top}transformer.resblocks.23", 1024))
    return SD2.shapes() | unused | {f"{top}text_projection": (1024, 1024), f"{top}logit_scale": ()}


def configs_of(layout, shapes):
    """What ``config.json`` would say of each component."""
    return {name: home.config(shapes) for name, home in layout.homes.items()}


def test_stable_diffusion_1():
    configs = configs_of(LAYOUT_1, SD1.shapes())
    assert UNetConfig.from_json(configs["unet"]) == UNetConfig(cross_attention_dim=768, attention_head_dim=8)
    assert CLIPTextConfig.from_json(configs["text_encoder"]) == CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12
    )
    assert VAEConfig.from_json(configs["vae"] | {"scaling_factor": 0.18215}) == VAEConfig(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def test_stable_diffusion_2():
    configs = configs_of(LAYOUT_2, sd2_shapes())
    assert UNetConfig.from_json(configs["unet"]) == UNetConfig(
        cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )
    expected = CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu"
    )
    assert CLIPTextConfig.from_json(configs["text_encoder"]) == expected
    of_script = LAYOUT_2.homes["text_encoder"].config(SD2.shapes())
    assert CLIPTextConfig.from_json(of_script) == expected  # as diffusers' script writes it


def test_stable_diffusion_xl():
    """As in the folder of stable-diffusion-xl-base-1.0; its file has 2515 arrays."""
    shapes = XL.shapes()
    assert len(shapes) == 2515
    configs = configs_of(LAYOUT_XL, shapes)
    assert UNetConfig.from_json(configs["unet"]) == UNetConfig(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    vae = VAEConfig.from_json(configs["vae"])
    assert (vae.scaling_factor, vae.force_upcast, vae.downscale) == (0.13025, True, 8)
    assert CLIPTextConfig.from_json(configs["text_encoder"]) == CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12
    )
    assert CLIPTextProjectionConfig.from_json(configs["text_encoder_2"]) == CLIPTextProjectionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_attention_heads=20,
        num_hidden_layers=32,
        hidden_act="gelu",
        projection_dim=1280,
        eos_token_id=49407,
    )


def test_the_refiner():
    """As in the folder of stable-diffusion-xl-refiner-1.0."""
    real = OriginalXL(
        **(_REAL | {"model_channels": 384, "attention_levels": (1, 2)}), depths=(0, 4, 4, 4), context_dim=1280,
        clip_width=0, sizes=5, open_clip_width=1280, open_clip_layers=32, projection=1280,
    )  # fmt: skip
    found = UNetConfig.from_json(configs_of(LAYOUT_REFINER, real.shapes())["unet"])
    assert found == UNetConfig(
        block_out_channels=(384, 768, 1536, 1536),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=1280,
        attention_head_dim=(6, 12, 24, 24),
        transformer_layers_per_block=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2560,
    )


def test_inpainting():
    config = LAYOUT_1.homes["unet"].config(Original(**_REAL, context_dim=768, in_channels=9).shapes())
    assert (config["in_channels"], config["out_channels"]) == (9, 4)


@pytest.mark.parametrize("layout", [LAYOUT_1, LAYOUT_2, LAYOUT_XL], ids=lambda layout: layout.name)
@given(data=st.data())
@settings(max_examples=150, deadline=None, database=None)
def test_of_nonsense_one_line(layout, data):
    shapes = TINY[layout].shapes()
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(shapes)))
        shape = shapes.pop(name)
        other = data.draw(st.sampled_from([None, (), (0,), (1, 2, 3, 4, 5), (2**40, 1), shape[::-1], (*shape, 1)]))
        if other is not None:
            shapes[data.draw(st.sampled_from([name, name.replace("0", "7"), name.replace("1", "99999999999999")]))] = (
                other
            )
    for component, home in layout.homes.items():
        try:
            layout.family.components[component].config_cls.from_json(home.config(shapes))
        except InputError as error:
            line = str(error)
            assert line.isprintable()
