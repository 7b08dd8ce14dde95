# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which layers presets choose, by the rules of kohya's scripts and OneTrainer written down from diffusers' names."""

import re

import jax
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import lora, targets
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.config import add_settings, new_parser
from dreambooth_jax.errors import InputError
from dreambooth_jax.models import CLIPTextConfig, UNetConfig
from dreambooth_jax.models.families import SD
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.weights.modules import parameter_shapes

SD15 = {
    "unet": UNetConfig(cross_attention_dim=768),
    "text_encoder": CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
}


@pytest.fixture(scope="module")
def shapes():
    """Of all leaves of Stable Diffusion 1.5's UNet and text encoder, by name."""
    kinds = {name: SD.components[name] for name in SD15}
    return trees.flatten({name: parameter_shapes(kind, kind.build(SD15[name])) for name, kind in kinds.items()})


@pytest.fixture(scope="module")
def names(shapes):
    """Of all these leaves."""
    return list(shapes)


def test_what_is_kept_of_a_run_of_rank_16_is_small(shapes):
    """Weights and moments are of the 192 layers' small matrices alone."""
    adapter = lora(choose_layers(unet=["attn-mlp"]), ranks=Ranks(16))
    _, trainable = jax.eval_shape(adapter.init, rng.root_key(0), trees.unflatten(shapes))
    assert trees.count(trainable) == sum(
        16 * (np.prod(shapes[name].shape[:-1]) + shapes[name].shape[-1])
        for name in choose_layers(unet=["attn-mlp"])(list(shapes))
    )
    assert 2 * trees.count(trainable) <= 14e6, "exported in half precision"
    optimizers = {"unet": adamw(optax.constant_schedule(1e-4), group="unet")}
    state = jax.eval_shape(lambda tree: init_state(tree, optimizers, with_ema=False), trainable)
    assert trees.nbytes(state) <= 85e6, "a checkpoint"


def lierla(layer):
    """Every dense layer and 1x1 convolution below Transformer2DModel, below CLIPAttention and CLIPMLP."""
    return bool(re.search(r"/attentions_\d+/|/self_attn/|/mlp/", layer))


def c3lier(layer):
    """In ResnetBlock2D, Downsample2D and Upsample2D, too."""
    return lierla(layer) or bool(re.search(r"/(resnets|downsamplers|upsamplers)_\d+/", layer))


def test_counts_are_those_of_kohyas_log(names):
    """kohya_ss#369: 192 modules of the UNet, 72 of the text encoder; with convolutions 278."""
    assert len(choose_layers(unet=["attn-mlp"])(names)) == 192
    both = choose_layers(unet=["attn-mlp"], text_encoder=["attn-mlp"])(names)
    assert len(both) == 192 + 72
    assert len(choose_layers(unet=["attn-mlp-conv"])(names)) == 278


@pytest.mark.parametrize(("preset", "rule"), [("attn-mlp", lierla), ("attn-mlp-conv", c3lier)])
def test_presets_follow_the_rules(names, preset, rule):
    kernels = [name for name in names if name.endswith("/kernel") and name.startswith("unet/")]
    assert choose_layers(unet=[preset])(names) == [name for name in kernels if rule(name)]


def test_narrower_presets(names):
    attention = choose_layers(unet=["attn-only"], text_encoder=["attn-only"])(names)
    assert len(attention) == 16 * 8 + 12 * 4
    assert {name.split("/")[-2] for name in attention} == {
        *("to_q", "to_k", "to_v", "to_out_0"),
        *("q_proj", "k_proj", "v_proj", "out_proj"),
    }
    cross = choose_layers(unet=["cross-attention"])(names)
    assert len(cross) == 16 * 4
    assert all("/attn2/" in name for name in cross)
    assert {name.split("/")[-2] for name in choose_layers(unet=["cross-attention-kv"])(names)} == {"to_k", "to_v"}
    everything = choose_layers(unet=["full"], text_encoder=["full"])(names)
    assert everything == [name for name in names if name.endswith("/kernel")]


def test_presets_and_patterns_add_up_in_the_models_order(names):
    found = choose_layers(unet=["unet/conv_out", "cross-attention-kv", ".*attn2/to_k"])(names)
    assert sorted(found) == sorted([*choose_layers(unet=["cross-attention-kv"])(names), "unet/conv_out/kernel"])
    assert found == [name for name in names if name in found]


def test_the_other_networks_are_left_alone(names):
    everything = [*names, "vae/decoder/conv_in/kernel"]
    assert all(name.startswith("unet/") for name in choose_layers(unet=[".*"])(everything))
    assert not any(name.startswith("vae/") for name in choose_layers(unet=[".*"], text_encoder=[".*"])(everything))


@pytest.mark.parametrize("setting", ["adapter.targets", "adapter.text_encoder_targets"])
def test_what_no_layer_matches_is_said(names, setting):
    given = {"unet": ["attn-mlp"], "text_encoder": ["attn-mlp"]}
    given["unet" if setting == "adapter.targets" else "text_encoder"] = ["attn-only", "attn_mlp"]
    with pytest.raises(
        InputError, match=rf"^{setting} has 'attn_mlp', which no layer matches: use attn-mlp, .* such as (unet|text)"
    ):
        choose_layers(**given)(names)


def test_every_preset_is_in_the_help():
    help_text = " ".join(add_settings(new_parser()).format_help().split())
    for preset in {*targets.UNET, *targets.TEXT_ENCODER} - {"cross-attention-kv"}:
        assert preset in help_text
