# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What holds for the networks without an oracle: recomputation, compute dtypes, sizes, and the laws of small layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.models import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelBeforeLast,
    CLIPTextModelWithProjection,
    CLIPTextProjectionConfig,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
)
from dreambooth_jax.models.layers import Downsample, GroupNorm, Upsample, gelu, quick_gelu, timestep_embedding
from dreambooth_jax.trees import flatten, matcher, shapes

UNET = UNetConfig(
    block_out_channels=(16,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=16,
    attention_head_dim=2,
)
TEXT = CLIPTextConfig(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
VAE = VAEConfig(
    block_out_channels=(16, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=4,
)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


UNET_INPUTS = normal(2, 8, 6, 4), np.array([7, 600], np.int32), normal(2, 5, 16)
TEXT_INPUTS = (RNG.integers(0, 50, (2, 77)).astype(np.int32),)
NETWORKS = {
    "unet": (UNet2DConditionModel, UNET, UNET_INPUTS),
    "text_encoder": (CLIPTextModel, TEXT, TEXT_INPUTS),
}


def random_params(module, *inputs):
    """As ``module.init`` has them in structure, but made without compiling it."""
    structure = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: normal(*leaf.shape) * max(leaf.size // leaf.shape[-1], 4) ** -0.5, structure)


def fast(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """(class, config, inputs, random parameters, compiled float32 network)."""
    cls, config, inputs = NETWORKS[request.param]
    params = random_params(cls(config), *inputs)
    return cls, config, inputs, params, fast(cls(config).apply)


@pytest.mark.parametrize("remat", ["blocks", "attention"])
def test_recomputation_is_asked_for(network, remat):
    """Every residual block, transformer or layer of CLIP as a whole, or every attention; names and output stay."""
    cls, config, inputs, params, plain = network
    frugal = cls(config, remat=remat)
    assert shapes(jax.eval_shape(frugal.init, jax.random.key(0), *inputs)) == shapes(params)
    np.testing.assert_allclose(fast(frugal.apply)(params, *inputs), plain(params, *inputs), rtol=1e-4, atol=1e-5)
    equations = jax.make_jaxpr(frugal.apply)(params, *inputs).eqns
    recomputed = sum("prevent_cse" in equation.params for equation in equations)
    resnets, transformers = 5, 4
    expected = {"blocks": resnets + transformers, "attention": 2 * transformers}
    assert recomputed == (expected[remat] if cls is UNet2DConditionModel else TEXT.num_hidden_layers)


@pytest.mark.slow
def test_recomputation_changes_only_the_cost(network):
    """In float64 all policies have the same gradients; attentions are a part of the blocks, in work too."""
    cls, config, inputs, params, _ = network
    # what XLA counts of a loop is one turn: with one head there is no other
    config = dataclasses.replace(config, **{"num_attention_heads" if cls is CLIPTextModel else "attention_head_dim": 1})
    with jax.enable_x64(True):
        params, inputs = jax.tree.map(jnp.asarray, (params, inputs))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

        def compiled(remat):
            network = cls(config, dtype=jnp.float64, remat=remat)
            return fast(jax.grad(lambda p: jnp.square(network.apply(p, *inputs)).mean())).lower(params).compile()

        policies = {remat: compiled(remat) for remat in ("nothing", "attention", "blocks")}
        grads = {remat: jax.tree.leaves(policy(params)) for remat, policy in policies.items()}
    for remat in ("attention", "blocks"):
        for a, b in zip(grads["nothing"], grads[remat], strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    flops = [policy.cost_analysis()["flops"] for policy in policies.values()]
    assert 1.02 * flops[0] < flops[1] < 0.98 * flops[2]


def test_bfloat16_is_near_float32(network):
    cls, config, inputs, params, plain = network
    exact = plain(params, *inputs)
    rough = fast(cls(config, dtype=jnp.bfloat16).apply)(params, *inputs)
    assert rough.dtype == jnp.float32
    assert 0 < np.linalg.norm(rough - exact) < 0.03 * np.linalg.norm(exact)


def test_examples_do_not_see_each_other(network):
    *_, inputs, params, plain = network
    changed = [np.stack([a[1], a[1]]) for a in inputs]
    before, after = plain(params, *inputs), plain(params, *changed)
    np.testing.assert_allclose(before[1], after[1], rtol=1e-5, atol=1e-6)
    assert np.abs(before[0] - after[0]).max() > 0.1


def test_bfloat16_vae():
    """It encodes as in float32, and decodes in 16 bits."""
    images = normal(1, 16, 8, 3)
    exact, rough = (AutoencoderKL(VAE, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    params = random_params(exact, images)
    (mean, logvar), (mean16, logvar16) = (
        fast(functools.partial(module.apply, method="encode"))(params, images) for module in (exact, rough)
    )
    assert mean.shape == logvar.shape == (1, 8, 4, 4)
    np.testing.assert_array_equal(mean16, mean)
    np.testing.assert_array_equal(logvar16, logvar)
    decoded, decoded16 = (
        fast(functools.partial(module.apply, method="decode"))(params, mean) for module in (exact, rough)
    )
    assert decoded16.dtype == jnp.float32
    assert 0 < np.linalg.norm(decoded16 - decoded) < 0.03 * np.linalg.norm(decoded)


def test_log_variance_is_bounded():
    images = normal(1, 8, 8, 3)
    module = AutoencoderKL(VAE)
    params = random_params(module, images)
    params["params"]["quant_conv"]["bias"] = np.array([0, 0, 0, 0, 1e3, -1e3, 1e3, -1e3], np.float32)
    _, logvar = fast(functools.partial(module.apply, method="encode"))(params, images)
    np.testing.assert_array_equal(logvar, np.broadcast_to([20, -30, 20, -30], logvar.shape))


def test_text_is_causal():
    """What a token is turned into does not depend on later ones."""
    ids = TEXT_INPUTS[0]
    module = CLIPTextModel(TEXT)
    params = random_params(module, ids)
    changed = ids.copy()
    changed[:, 40:] = (changed[:, 40:] + 1) % 50
    apply = fast(module.apply)
    one, other = apply(params, ids), apply(params, changed)
    np.testing.assert_allclose(one[:, :40], other[:, :40], rtol=1e-5, atol=1e-6)
    assert np.abs(one[:, 40:] - other[:, 40:]).max() > 0.1


def test_group_norm():
    """Each group of each example has mean bias and deviation scale, also where the mean is large."""
    x = jnp.asarray(100 + 3 * normal(2, 4, 5, 12))
    params = {"scale": jnp.full(12, 2.0), "bias": jnp.full(12, 7.0)}
    y = GroupNorm(3, 1e-6).apply({"params": params}, x).reshape(2, 20, 3, 4)
    np.testing.assert_allclose(y.mean((1, 3)), 7, atol=1e-4)
    np.testing.assert_allclose(y.std((1, 3)), 2, rtol=1e-4)


def test_timestep_embedding():
    t = jnp.array([0, 1, 999])
    embed = functools.partial(timestep_embedding, t, 8, dtype=jnp.float32)
    sines, cosines = jnp.split(embed(flip_sin_to_cos=False, freq_shift=0.0), 2, axis=1)
    np.testing.assert_allclose(sines**2 + cosines**2, np.ones((3, 4)), rtol=1e-5)
    np.testing.assert_allclose(sines[:, 0], np.sin(t), atol=1e-6)  # the highest frequency is 1
    np.testing.assert_array_equal(
        embed(flip_sin_to_cos=True, freq_shift=0.0), jnp.concatenate([cosines, sines], axis=1)
    )
    lowest = embed(flip_sin_to_cos=False, freq_shift=1.0)[:, 3]
    np.testing.assert_allclose(lowest, np.sin(t * 1e-4), rtol=1e-5)  # with a shift of 1 it is exactly 1/10000


def test_a_timestep_may_be_a_real_number():
    """A whole one is the same bit for bit as an integer; between them sinusoids go on as they do."""
    embed = functools.partial(timestep_embedding, size=8, flip_sin_to_cos=False, freq_shift=1.0, dtype=jnp.float32)
    np.testing.assert_array_equal(embed(jnp.arange(1000.0)), embed(jnp.arange(1000)))
    t = jnp.array([0.5, 123.25, 998.75])
    np.testing.assert_allclose(embed(t)[:, [0, 3]], np.stack([np.sin(t), np.sin(t * 1e-4)], axis=1), atol=1e-4)


def test_activations():
    """Both are x far to the right, 0 far to the left, and x/2 near 0; the exact one has the error function's value."""
    x = jnp.array([-30.0, -1e-3, 0.0, 1e-3, 30.0])
    for activation in (gelu, quick_gelu):
        np.testing.assert_allclose(activation(x), [0, -0.5e-3, 0, 0.5e-3, 30], atol=1e-6)
    np.testing.assert_allclose(gelu(jnp.ones(1)), [0.8413447], rtol=1e-6)  # Φ(1)


def test_resampling_sizes():
    x = jnp.asarray(normal(1, 5, 4, 3))
    up = Upsample(2)
    params = random_params(up, x)
    assert up.apply(params, x).shape == (1, 10, 8, 2)
    np.testing.assert_allclose(up.apply(params, x, (9, 8))[:, :8], up.apply(params, x)[:, :8], rtol=1e-5, atol=1e-6)
    assert Downsample(2).apply(params, x).shape == (1, 3, 2, 2)
    assert Downsample(2, lopsided=True).apply(params, x).shape == (1, 2, 2, 2)


@pytest.mark.parametrize("skip", [1, 2])
@pytest.mark.parametrize("network", [CLIPTextModel, CLIPTextModelBeforeLast, CLIPTextModelWithProjection])
def test_what_is_unread_is_what_no_output_depends_on(network, skip):
    shape = {field.name: getattr(TEXT, field.name) for field in dataclasses.fields(TEXT)} | {"num_hidden_layers": 4}
    cls = CLIPTextProjectionConfig if network is CLIPTextModelWithProjection else CLIPTextConfig
    ids = jnp.zeros((1, 77), jnp.int32)
    params = jax.eval_shape(network(cls(**shape)).init, jax.random.key(0), ids)
    module = network(cls(**shape), clip_skip=skip)
    program = jax.make_jaxpr(lambda params: module.apply(params, ids))(params).jaxpr
    used = {id(variable) for equation in program.eqns for variable in equation.invars}
    names = sorted(flatten(params["params"]), key=lambda name: name.split("/"))  # as leaves are counted
    unused = {name for name, variable in zip(names, program.invars, strict=True) if id(variable) not in used}
    assert unused == set(filter(matcher(module.unread), names))
