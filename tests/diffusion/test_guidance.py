# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion.guidance import guided

X = jnp.linspace(-1, 1, 8).reshape(2, 2, 2, 1)
TEXT = jnp.asarray([1.0, 2.0]).reshape(2, 1, 1)
NEGATIVE = jnp.asarray([-3.0, 5.0]).reshape(2, 1, 1)
T = jnp.int32(7)


def network(x, t, text):
    return x * t + text[:, :, None, :]


def denoise(scale: float):
    return guided(network, text=TEXT, negative=NEGATIVE, scale=jnp.float32(scale))(X, T)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_no_guidance_is_the_prompt_alone(scale):
    np.testing.assert_array_equal(denoise(scale), network(X, T, TEXT))
    alone = guided(network, text=TEXT, negative=None, scale=jnp.float32(scale))
    np.testing.assert_array_equal(alone(X, T), network(X, T, TEXT))


def test_timesteps_may_be_fractional():
    whole, half = (guided(network, text=TEXT, negative=None, scale=jnp.float32(1))(X, t) for t in (T, T + 0.5))
    np.testing.assert_allclose(half - whole, X / 2, rtol=1e-6)


def test_the_same_prompt_on_both_sides_needs_no_guidance():
    same = guided(network, text=TEXT, negative=TEXT, scale=jnp.float32(7.5))(X, T)
    np.testing.assert_array_equal(same, network(X, T, TEXT))


@pytest.mark.parametrize("scale", [1.5, 7.5, 20.0])
def test_goes_scale_times_the_way_from_the_negative_prompt(scale):
    start, way = network(X, T, NEGATIVE), network(X, T, TEXT) - network(X, T, NEGATIVE)
    np.testing.assert_allclose(denoise(scale) - start, scale * way, rtol=1e-5)


def test_one_call_for_both():
    calls = []

    def counting(x, t, text):
        calls.append((x.shape, text.shape))
        return network(x, t, text)

    guided(counting, text=TEXT, negative=NEGATIVE, scale=jnp.float32(2))(X, T)
    guided(counting, text=TEXT, negative=None, scale=jnp.float32(2))(X, T)
    assert calls == [((4, 2, 2, 1), (4, 1, 1)), ((2, 2, 2, 1), (2, 1, 1))]


@pytest.mark.parametrize("part", [0.0, 0.7, 1.0])
def test_rescaling_gives_each_picture_the_contrast_of_its_prompt(part):
    """Of each picture by itself, and in what the network predicts."""
    guide = partial(guided, network, text=TEXT, negative=NEGATIVE, scale=jnp.float32(7.5))
    plain, found, alone = guide()(X, T), guide(rescale=jnp.float32(part))(X, T), network(X, T, TEXT)
    expected = plain * (1 - part + part * alone.std((1, 2, 3)) / plain.std((1, 2, 3)))[:, None, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if part == 0:
        np.testing.assert_array_equal(found, plain)


def test_the_amount_of_rescaling_compiles_nothing():
    @jax.jit
    def run(part):
        return guided(network, text=TEXT, negative=NEGATIVE, scale=jnp.float32(7.5), rescale=part)(X, T)

    for part in (0.0, 0.5, 1.0):
        run(jnp.float32(part))
    assert run._cache_size() == 1
