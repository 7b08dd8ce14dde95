# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Strip by strip, the autoencoder computes what it computes of the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.models import vae_strips
from dreambooth_jax.models.configs import VAEConfig
from dreambooth_jax.models.vae import AutoencoderKL

CONFIG = VAEConfig(
    block_out_channels=(8, 16, 16),
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    norm_num_groups=4,
)


def autoencoder(dtype):
    vae = AutoencoderKL(CONFIG, dtype=dtype)
    params = vae.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3), dtype))["params"]
    r = np.random.default_rng(0)
    return vae, jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.1 * r.normal(size=leaf.shape), dtype), params)


@pytest.mark.parametrize("rows", [*(pytest.param(rows, marks=pytest.mark.slow) for rows in (3, 8)), None])
def test_no_seams(rows):
    """In float64 to the last digits, whatever the strips: of one size or with a shorter last one."""
    r = np.random.default_rng(1)
    with jax.enable_x64(True):
        vae, params = autoencoder(jnp.float64)
        latents, image = r.normal(size=(10, 7, 4)), r.uniform(-1, 1, size=(40, 28, 3))
        whole = vae.apply({"params": params}, jnp.asarray(latents)[None], method="decode")[0]
        np.testing.assert_allclose(vae_strips.decode(vae, params, latents, rows=rows), whole, atol=1e-11)
        moments = vae.apply({"params": params}, jnp.asarray(image)[None], method="encode")
        for found, expected in zip(vae_strips.encode(vae, params, image, rows=rows), moments):
            np.testing.assert_allclose(found, expected[0], atol=1e-11)


@pytest.mark.slow
def test_half_precision_differs_by_its_rounding():
    vae, params = autoencoder(jnp.float32)
    half = AutoencoderKL(CONFIG, dtype=jnp.bfloat16)
    latents = np.random.default_rng(1).normal(size=(10, 6, 4)).astype(np.float32)
    exact = vae_strips.decode(vae, params, latents, rows=8)
    for found in (
        vae_strips.decode(half, params, latents, rows=8),
        half.apply({"params": params}, jnp.asarray(latents)[None], method="decode")[0],
    ):
        assert found.dtype == np.float32
        assert np.abs(found - exact).mean() < 0.02 * np.abs(exact).max()


def test_what_a_device_holds_does_not_depend_on_the_height():
    """The programs of a picture of any height, from one strip on, are the same, so they need the same memory."""
    vae, params = autoencoder(jnp.float32)
    r = np.random.default_rng(1)
    vae_strips.decode(vae, params, r.normal(size=(8, 6, 4)).astype(np.float32), rows=8)
    before = vae_strips._strip._cache_size()
    vae_strips.decode(vae, params, r.normal(size=(20, 6, 4)).astype(np.float32), rows=8)
    assert vae_strips._strip._cache_size() == before
