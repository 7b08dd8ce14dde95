# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Shapes of the published files tell the published configurations; of nonsense they tell one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.weights.ldm_configs import text_config, unet_config, vae_config
from tests.weights.originals import Original, open_clip_layer

_REAL = {"model_channels": 320, "channel_mult": (1, 2, 4, 4), "attention_levels": (0, 1, 2), "num_res_blocks": 2} | {
    "vae_channels": 128,
    "vae_mult": (1, 2, 4, 4),
    "vocabulary": 49408,
}
SD1 = Original(**_REAL, context_dim=768, layers=12)
SD2 = Original(**_REAL, context_dim=1024, layers=23, version=2)


def sd2_shapes():
    """The published file has a layer more than is used, and a projection."""
    top = "cond_stage_model.model."
    unused = dict(open_clip_layer(f"{top}transformer.resblocks.23", 1024))
    return SD2.shapes() | unused | {f"{top}text_projection": (1024, 1024), f"{top}logit_scale": ()}


def test_stable_diffusion_1():
    shapes = SD1.shapes()
    assert UNetConfig.from_json(unet_config(shapes, sample_size=64)) == UNetConfig(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8
    )
    assert CLIPTextConfig.from_json(text_config(shapes)) == CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12
    )
    assert VAEConfig.from_json(vae_config(shapes) | {"scaling_factor": 0.18215}) == VAEConfig(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def test_stable_diffusion_2():
    shapes = sd2_shapes()
    assert UNetConfig.from_json(unet_config(shapes, sample_size=96)) == UNetConfig(
        sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )
    expected = CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, hidden_act="gelu"
    )
    assert CLIPTextConfig.from_json(text_config(shapes)) == expected
    assert CLIPTextConfig.from_json(text_config(SD2.shapes())) == expected  # as diffusers' script writes it


def test_inpainting():
    config = unet_config(Original(**_REAL, context_dim=768, in_channels=9).shapes(), sample_size=64)
    assert (config["in_channels"], config["out_channels"]) == (9, 4)


@pytest.mark.parametrize("version", [1, 2])
@given(data=st.data())
@settings(max_examples=200, deadline=None, database=None)
def test_of_nonsense_one_line(version, data):
    shapes = Original(version=version).shapes()
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(sorted(shapes)))
        shape = shapes.pop(name)
        other = data.draw(st.sampled_from([None, (), (0,), (1, 2, 3, 4, 5), (2**40, 1), shape[::-1], (*shape, 1)]))
        if other is not None:
            shapes[data.draw(st.sampled_from([name, name.replace("0", "7"), name.replace("1", "99999999999999")]))] = (
                other
            )
    for config_cls, make in (
        (UNetConfig, lambda: unet_config(shapes, sample_size=64)),
        (VAEConfig, lambda: vae_config(shapes)),
        (CLIPTextConfig, lambda: text_config(shapes)),
    ):
        try:
            config_cls.from_json(make())
        except InputError as error:
            line = str(error)
            assert line.isprintable()
