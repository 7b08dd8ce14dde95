# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The networks of Stable Diffusion XL against PyTorch's: outputs, and gradients of every leaf."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.models import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModelBeforeLast,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
    ControlNetConfig,
    ControlNetModel,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
)
from dreambooth_jax.models.condition import Condition
from dreambooth_jax.trees import flatten, matcher
from tests import torch_models
from tests.models.test_parity import check_double, check_names, close, fast, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

RNG = np.random.default_rng(0)
SIZES = np.array([[1024, 768, 0, 13, 1024, 1024], [431, 512, 7.5, 0, 512, 384]])


def told(dtype) -> Condition:
    """Text states, a vector of the whole text, and sizes."""
    states, pooled = RNG.normal(size=(2, 7, 80)), RNG.normal(size=(2, 40))
    return Condition(*(part.astype(dtype) for part in (states, pooled, SIZES)))


def asked(network, latents, timesteps, condition: Condition, **more):
    """What PyTorch's network answers."""
    states, pooled, sizes = (torch.from_numpy(part) for part in condition[:3])
    added = {"text_embeds": pooled, "time_ids": sizes}
    return network(nchw(latents), torch.from_numpy(timesteps), states, added_cond_kwargs=added, **more)


def unet_inputs(dtype):
    """An odd width, so that up-sampling has to follow the skip connections."""
    return RNG.normal(size=(2, 8, 7, 4)).astype(dtype), np.array([987.65, 0.5], dtype), told(dtype)


def gradients_of(model):
    """Of every leaf; zero for one without a part in what was asked."""
    return torch_models.params_from_torch(
        model, lambda leaf: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    )


def test_unet():
    single = torch_models.build_unet("sdxl")
    module = UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(single)))
    params, inputs = torch_models.params_from_torch(single), unet_inputs(np.float32)
    check_names(module, params, *inputs)
    found = fast(module.apply)({"params": params}, *inputs)
    assert found.dtype == np.float32
    close(found, nhwc(asked(single, *inputs).sample), 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        # as SSD-1B and Segmind-Vega: layers of a block differ, and the middle is one resnet
        {
            **{"layers_per_block": (1, 2), "transformer_layers_per_block": (1, (2, 1))},
            **{"reverse_transformer_layers_per_block": ((1, 1, 2), 1), "mid_block_type": "UNetMidBlock2D"},
        },
        # as KOALA-700M: no middle; what is said of a block without transformers counts for nothing
        pytest.param({"transformer_layers_per_block": (0, 2), "mid_block_type": None}, marks=pytest.mark.slow),
    ],
    ids=["base", "nested", "no middle"],
)
def test_unet_gradients(options):
    """Of one that is told of guidance, too."""
    double = torch_models.build_unet("sdxl", double=True, time_cond_proj_dim=16, **options)
    module = UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(double)), dtype=jnp.float64)
    latents, timesteps, condition = unet_inputs(np.float64)
    scales = np.array([6.5, -0.25])
    angles = 1000 * scales[:, None] * 10000.0 ** (-np.arange(8) / 7)
    embedded = torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
    inputs = latents, timesteps, condition._replace(guidance=scales)
    expected = asked(double, *inputs, timestep_cond=embedded).sample
    cotangent = RNG.normal(size=inputs[0].shape)
    expected.backward(nchw(cotangent))
    params = torch_models.params_from_torch(double)
    values = {"expected": nhwc(expected), "cotangent": cotangent, "gradients": gradients_of(double)}
    check_double(module.apply, params, inputs, **values)


def test_controlnet():
    single = torch_models.build_controlnet("sdxl")
    module = ControlNetModel(ControlNetConfig.from_json(torch_models.config_json(single)))
    params, inputs = torch_models.params_from_torch(single), unet_inputs(np.float32)
    picture = RNG.uniform(size=(2, 16, 14, 3)).astype(np.float32)
    check_names(module, params, *inputs, picture)
    found = fast(module.apply)({"params": params}, *inputs, picture)
    expected = asked(single, *inputs, controlnet_cond=nchw(picture))
    for mine, theirs in zip((*found.skips, found.middle), (*expected[0], expected[1]), strict=True):
        close(mine, nhwc(theirs), 1e-5)


@pytest.mark.parametrize("missing", ["pooled", "sizes"])
def test_what_the_unet_is_not_told_is_named(missing):
    config = UNetConfig.from_json(torch_models.config_json(torch_models.build_unet("sdxl")))
    inputs = unet_inputs(np.float32)
    with pytest.raises(ValueError, match="needs a condition with pooled and sizes"):
        jax.eval_shape(
            UNet2DConditionModel(config).init, jax.random.key(0), *inputs[:2], inputs[2]._replace(**{missing: None})
        )
    narrow = inputs[2]._replace(pooled=np.ones((2, 39), np.float32))
    with pytest.raises(ValueError, match="87 wide, this network takes 88"):
        jax.eval_shape(UNet2DConditionModel(config).init, jax.random.key(0), *inputs[:2], narrow)


def hidden(encoder, ids, *, skip):
    """(a hidden state, what stands for the text or None), as ``StableDiffusionXLPipeline`` takes them."""
    out = encoder(torch.tensor(np.asarray(ids)).long(), output_hidden_states=True)
    return out.hidden_states[-1 - skip], out[0] if out[0].ndim == 2 else None


def texts(config):
    """Random tokens with an end in the middle, which in one of them comes twice."""
    ids = RNG.integers(0, config.vocab_size - 1, (3, 20)).astype(np.int32)
    ids[[0, 1, 1, 2], [12, 5, 9, 19]] = config.vocab_size - 1
    return jnp.asarray(ids)


@pytest.mark.parametrize("skip", [1, 2])
def test_first_text_encoder(skip):
    single = torch_models.build_text_encoder("sdxl")
    module = CLIPTextModelBeforeLast(CLIPTextConfig.from_json(torch_models.config_json(single)), clip_skip=skip)
    params, ids = torch_models.params_from_torch(single), texts(single.config)
    check_names(module, params, ids)
    found = fast(module.apply)({"params": params}, ids)
    assert found.dtype == np.float32
    close(found, hidden(single, ids, skip=skip)[0].detach(), 1e-5)


def test_gradients_of_the_first_text_encoder():
    """What is behind the layer that is read has none: what files have of it is kept as it is."""
    double = torch_models.build_text_encoder("sdxl", double=True)
    module = CLIPTextModelBeforeLast(CLIPTextConfig.from_json(torch_models.config_json(double)), dtype=jnp.float64)
    ids = texts(double.config)
    expected, _ = hidden(double, ids, skip=1)
    cotangent = RNG.normal(size=expected.shape)
    expected.backward(torch.from_numpy(cotangent))
    theirs = flatten(gradients_of(double))
    with jax.enable_x64(True):
        loss = fast(jax.grad(lambda params: (module.apply({"params": params}, ids) * cotangent).sum()))
        mine = flatten(loss(torch_models.params_from_torch(double)))
    assert mine.keys() == theirs.keys()
    top = max(np.abs(leaf).max() for leaf in theirs.values())
    for name, leaf in theirs.items():
        close(mine[name], leaf, 1e-9, floor=1e-13 * top)
        assert np.any(leaf) != matcher(module.unread)(name), name


@pytest.mark.parametrize("end", [2, 552])
@pytest.mark.parametrize("skip", [1, 2])
def test_second_text_encoder(end, skip):
    single = torch_models.build_text_encoder_2(eos_token_id=end)
    config = CLIPTextProjectionConfig.from_json(torch_models.config_json(single))
    module = CLIPTextModelWithProjection(config, clip_skip=skip)
    params, ids = torch_models.params_from_torch(single), texts(config)
    check_names(module, params, ids)
    found = fast(module.apply)({"params": params}, ids)
    for mine, theirs in zip(found, hidden(single, ids, skip=skip), strict=True):
        assert mine.dtype == np.float32
        close(mine, theirs.detach(), 1e-5)


@pytest.mark.parametrize("end", [2, 552])
def test_gradients_of_the_second_text_encoder(end):
    double = torch_models.build_text_encoder_2(eos_token_id=end, double=True)
    config = CLIPTextProjectionConfig.from_json(torch_models.config_json(double))
    module, ids = CLIPTextModelWithProjection(config, dtype=jnp.float64), texts(config)
    states, pooled = hidden(double, ids, skip=1)
    expected = torch.cat([states.flatten(1), pooled], dim=1)
    cotangent = RNG.normal(size=expected.shape)
    expected.backward(torch.from_numpy(cotangent))

    def joined(params, ids):
        states, pooled = module.apply(params, ids)
        return jnp.concatenate([states.reshape(len(states), -1), pooled], axis=1)

    params, gradients = torch_models.params_from_torch(double), gradients_of(double)
    check_double(joined, params, (ids,), expected=expected.detach(), cotangent=cotangent, gradients=gradients)


@pytest.mark.parametrize("end", [2, 552])
def test_new_words_do_not_end_a_text(end):
    """Their ids are the highest, which transformers takes for the end where the file says 2."""
    single = torch_models.build_text_encoder_2(eos_token_id=end)
    config, params = (
        CLIPTextProjectionConfig.from_json(torch_models.config_json(single)),
        torch_models.params_from_torch(single),
    )
    module, ids = CLIPTextModelWithProjection(config, added_tokens=1), texts(config)
    tokens = params["text_model"]["embeddings"]["token_embedding"]
    tokens["added"] = tokens["embedding"][7:8]
    old, new = (fast(module.apply)({"params": params}, ids.at[:, 2].set(word)) for word in (7, config.vocab_size))
    np.testing.assert_array_equal(old.pooled, new.pooled)
    np.testing.assert_array_equal(old.states, new.states)


@pytest.mark.parametrize(
    ("asked", "says", "decoded"),
    [
        ("float16", True, "float32"),
        ("float16", False, "float16"),
        ("bfloat16", True, "bfloat16"),
        ("float32", True, "float32"),
    ],
)
def test_a_vae_that_leaves_the_range_of_float16(asked, says, decoded):
    """It encodes in float32 whatever is asked for, and decodes as diffusers does: float16 alone is too narrow."""
    raw = {"scaling_factor": 0.13025, "force_upcast": says, "norm_num_groups": 8, "block_out_channels": [16]}
    config = VAEConfig.from_json(raw)
    assert config.scaling_factor == 0.13025
    module = AutoencoderKL(config, dtype=asked)
    assert np.dtype(module.dtype) == jnp.dtype(decoded)
    images = np.zeros((1, 4, 4, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), images)
    for method, inputs, computed in (("encode", images, "float32"), ("decode", np.zeros((1, 4, 4, 4)), decoded)):
        program = jax.make_jaxpr(partial(module.apply, method=method))(params, inputs)
        convolved = {one.outvars[0].aval.dtype for one in program.eqns if one.primitive.name == "conv_general_dilated"}
        assert convolved == {jnp.dtype(computed)}


XL_UNET = {
    **{
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "sample_size": 128,
        "mid_block_only_cross_attention": None,
    },
    **{"block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048},
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    **{"transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "num_class_embeds": None},
    **{"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "addition_embed_type_num_heads": 64},
    **{"projection_class_embeddings_input_dim": 2816, "upcast_attention": None, "num_attention_heads": None},
}
XL_TEXT_2 = {
    **{"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32},
    **{"hidden_act": "gelu", "projection_dim": 1280, "eos_token_id": 2, "model_type": "clip_text_model"},
}


def sizes(module, *inputs):
    """Scalars of a module, of which none is made."""
    tree = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_the_published_sizes():
    config = UNetConfig.from_json(XL_UNET)
    inputs = (
        np.zeros((1, 8, 8, 4)),
        np.zeros(1),
        Condition(np.zeros((1, 1, 2048)), np.zeros((1, 1280)), np.zeros((1, 6))),
    )
    assert sizes(UNet2DConditionModel(config), *inputs) == 2_567_463_684
    text = CLIPTextModelWithProjection(CLIPTextProjectionConfig.from_json(XL_TEXT_2))
    assert sizes(text, np.zeros((1, 77), np.int32)) == 694_659_840


@pytest.mark.parametrize("lacking", ["addition_time_embed_dim", "projection_class_embeddings_input_dim"])
def test_a_configuration_that_says_half(lacking):
    with pytest.raises(
        InputError, match=f"addition_embed_type = 'text_time' is not supported, only beside .*{lacking}"
    ):
        UNetConfig.from_json({**XL_UNET, lacking: None})
