# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion.process import add_noise, alpha_sigma, reading, sample_posterior, training_target

KINDS = ("epsilon", "sample", "v_prediction")
ALPHA_BAR = jnp.asarray([0.999, 0.5, 0.004])


def convert(prediction, x, alpha_bar, *, source, target):
    of_prediction, of_x = reading(source, target, *alpha_sigma(alpha_bar, x))
    return of_prediction * prediction + of_x * x


@pytest.fixture
def pair(getkey):
    x0, noise = jax.random.normal(getkey(), (2, 3, 4, 4, 2))
    return x0, noise


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
def test_every_conversion_agrees_with_the_truth(pair, source, target):
    """What is told in one form and read in another is what would have been told in the other."""
    x = add_noise(*pair, ALPHA_BAR)
    told = training_target(source, *pair, ALPHA_BAR)
    read = convert(told, x, ALPHA_BAR, source=source, target=target)
    np.testing.assert_allclose(read, training_target(target, *pair, ALPHA_BAR), atol=1e-4)


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(KINDS, 2)))
def test_conversions_are_inverse(getkey, source, target):
    """Of anything: a network's prediction need not be true."""
    with jax.enable_x64(True):
        x, prediction = jax.random.normal(getkey(), (2, 3, 4, 4, 2), jnp.float64)
        there = convert(prediction, x, ALPHA_BAR, source=source, target=target)
        back = convert(there, x, ALPHA_BAR, source=target, target=source)
        np.testing.assert_allclose(back, prediction, atol=1e-10)


def test_limits(pair):
    x0, noise = pair
    np.testing.assert_array_equal(add_noise(x0, noise, jnp.float32(1)), x0)
    np.testing.assert_array_equal(add_noise(x0, noise, jnp.float32(0)), noise)


@pytest.mark.parametrize("target", KINDS)
def test_v_tells_everything_at_zero_snr(pair, target):
    x0, noise = pair
    nothing = jnp.float32(0)
    v = training_target("v_prediction", x0, noise, nothing)
    told = convert(v, add_noise(x0, noise, nothing), nothing, source="v_prediction", target=target)
    np.testing.assert_array_equal(told, training_target(target, x0, noise, nothing))


def test_one_alpha_bar_for_all_or_one_for_each(pair):
    x0, noise = pair
    each = add_noise(x0, noise, ALPHA_BAR)
    for i, alpha_bar in enumerate(ALPHA_BAR):
        np.testing.assert_array_equal(add_noise(x0, noise, alpha_bar)[i], each[i])


def test_posterior_draws_have_its_moments_scaled(getkey):
    keys = jax.random.split(getkey(), 2)
    mean, logvar = jnp.full((2, 128, 128, 4), 3.0), jnp.full((2, 128, 128, 4), np.log(0.25))
    draw = sample_posterior(keys, mean, logvar, 0.5)
    np.testing.assert_allclose(draw.mean((1, 2, 3)), 1.5, atol=5e-3)
    np.testing.assert_allclose(draw.std((1, 2, 3)), 0.25, rtol=1e-2)


def test_a_posterior_draw_is_its_own_whatever_stands_beside_it(getkey):
    keys = jax.random.split(getkey(), 3)
    mean = logvar = jnp.zeros((3, 2, 2, 1))
    together = sample_posterior(keys, mean, logvar, 0.5)
    alone = sample_posterior(keys[1:2], mean[1:2], logvar[1:2], 0.5)
    np.testing.assert_array_equal(alone, together[1:2])
    assert not np.array_equal(together[0], together[1])
