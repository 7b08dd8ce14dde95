# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The networks against PyTorch's: outputs and gradients of every leaf, in float64 and float32, and all names.

In float64 a wrong formula cannot hide behind rounding; in float32 the code that users run is compared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.models import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
    VAEConfig,
)
from dreambooth_jax.trees import flatten
from tests import torch_models

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # to compile, not to run
RNG = np.random.default_rng(0)


def nchw(array):
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def normal(*shape):
    return RNG.normal(size=shape)


def close(found, expected, tolerance, floor=0.0):
    """Largest difference, relative to the largest of what is expected."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max() + floor


def check_names(module, params, *inputs):
    expected = {name: leaf.shape for name, leaf in flatten(params).items()}
    mine = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    assert {name: leaf.shape for name, leaf in flatten(mine).items()} == expected


def check_double(function, params, inputs, *, expected, cotangent, gradients):
    """Output and gradients of ``function(params, *inputs)`` in float64.

    Where a gradient is zero in exact arithmetic (a key's bias), its rounding is small beside the largest gradient.
    """
    with jax.enable_x64(True):

        @fast
        def both(params, *inputs):
            out, vjp = jax.vjp(lambda params: function(params, *inputs), params)
            return out, vjp(jnp.asarray(cotangent))[0]

        out, found = both({"params": params}, *inputs)
    assert out.dtype == np.float64
    close(out, expected, 1e-9)
    found, gradients = flatten(found["params"]), flatten(gradients)
    assert found.keys() == gradients.keys()
    top = max(np.abs(leaf).max() for leaf in gradients.values())
    for name, leaf in gradients.items():
        assert np.abs(leaf).max() > 0, f"{name} has no part in the oracle's output"
        close(found[name], leaf, 1e-9, floor=1e-13 * top)


def gradients_of(model):
    return torch_models.params_from_torch(model, lambda parameter: parameter.grad)


def unet_inputs(unet):
    """An odd width, so that up-sampling has to follow the skip connections."""
    size = unet.config.sample_size
    return normal(2, size, size - 1, 4), np.array([999, 1], np.int32), normal(2, 77, 32)


def torch_unet(unet, latents, timesteps, text):
    return unet(nchw(latents), torch.from_numpy(timesteps), torch.from_numpy(text)).sample


@pytest.mark.parametrize("kind", torch_models.KINDS)
def test_unet(kind):
    single = torch_models.build_unet(kind)
    module = UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(single)))
    params = torch_models.params_from_torch(single)
    latents, timesteps, text = unet_inputs(single)
    inputs = latents.astype(np.float32), timesteps, text.astype(np.float32)
    check_names(module, params, *inputs)
    found = jax.jit(module.apply)({"params": params}, *inputs)
    assert found.dtype == np.float32
    close(found, nhwc(torch_unet(single, *inputs)), 1e-5)
    inputs = inputs[0], np.array([987.65, 0.5], np.float32), inputs[2]  # as samplers ask that do not round timesteps
    close(jax.jit(module.apply)({"params": params}, *inputs), nhwc(torch_unet(single, *inputs)), 1e-5)


@pytest.mark.parametrize("kind", [pytest.param("sd15", marks=pytest.mark.slow), "sd21"])
def test_unet_gradients(kind):
    double = torch_models.build_unet(kind, double=True)
    module = UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(double)), dtype=jnp.float64)
    inputs = unet_inputs(double)
    expected = torch_unet(double, *inputs)
    cotangent = normal(*inputs[0].shape)
    expected.backward(nchw(cotangent))
    check_double(
        module.apply,
        torch_models.params_from_torch(double),
        inputs,
        expected=nhwc(expected),
        cotangent=cotangent,
        gradients=gradients_of(double),
    )


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_text_encoder(kind):
    single = torch_models.build_text_encoder(kind)
    ids = RNG.integers(0, single.config.vocab_size, (2, 77)).astype(np.int32)
    module = CLIPTextModel(CLIPTextConfig.from_json(torch_models.config_json(single)))
    params = torch_models.params_from_torch(single)
    check_names(module, params, ids)
    found = jax.jit(module.apply)({"params": params}, ids)
    assert found.dtype == np.float32
    close(found, single(torch.from_numpy(ids).long()).last_hidden_state.detach().numpy(), 1e-5)

    double = torch_models.build_text_encoder(kind, double=True)
    expected = double(torch.from_numpy(ids).long()).last_hidden_state
    cotangent = normal(*expected.shape)
    expected.backward(torch.from_numpy(cotangent))
    check_double(
        module.clone(dtype=jnp.float64).apply,
        torch_models.params_from_torch(double),
        (ids,),
        expected=expected.detach(),
        cotangent=cotangent,
        gradients=gradients_of(double),
    )


def test_vae():
    single = torch_models.build_vae()
    images, z = normal(2, 16, 24, 3).clip(-1, 1), normal(2, 8, 12, 4)
    module = AutoencoderKL(VAEConfig.from_json(torch_models.config_json(single)))
    params = torch_models.params_from_torch(single)
    check_names(module, params, images.astype(np.float32))

    @jax.jit
    def both(params, images, z):
        return *module.apply(params, images, method="encode"), module.apply(params, z, method="decode")

    found = both({"params": params}, images.astype(np.float32), z.astype(np.float32))
    posterior = single.encode(nchw(images.astype(np.float32))).latent_dist
    expected = posterior.mean, posterior.logvar, single.decode(nchw(z.astype(np.float32))).sample
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        close(a, nhwc(b), 1e-5)

    double = torch_models.build_vae(double=True)
    posterior = double.encode(nchw(images)).latent_dist
    expected = torch.cat([posterior.mean, posterior.logvar, double.decode(nchw(z)).sample.reshape(2, -1, 8, 12)], 1)
    cotangent = normal(2, 8, 12, expected.shape[1])
    expected.backward(nchw(cotangent))
    module = module.clone(dtype=jnp.float64)

    def joined(params, images, z):
        mean, logvar = module.apply(params, images, method="encode")
        decoded = module.apply(params, z, method="decode")
        decoded = decoded.transpose(0, 3, 1, 2).reshape(2, -1, 8, 12).transpose(0, 2, 3, 1)  # as PyTorch's lie above
        return jnp.concatenate([mean, logvar, decoded], axis=-1)

    check_double(
        joined,
        torch_models.params_from_torch(double),
        (images, z),
        expected=nhwc(expected),
        cotangent=cotangent,
        gradients=gradients_of(double),
    )


@pytest.mark.parametrize(
    "options",
    [
        {
            "only_cross_attention": (True, False),
            "transformer_layers_per_block": (2, 1),
            "layers_per_block": (1, 2),
        },
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-3,
        },
    ],
    ids=["per block", "types, timesteps, norms"],
)
def test_unet_options(options):
    single = torch_models.build_unet("sd21_base", **options)
    inputs = normal(1, 4, 8, 4).astype(np.float32), np.array([500], np.int32), normal(1, 5, 32).astype(np.float32)
    module = UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(single)))
    params = torch_models.params_from_torch(single)
    check_names(module, params, *inputs)
    close(fast(module.apply)({"params": params}, *inputs), nhwc(torch_unet(single, *inputs)), 1e-5)
