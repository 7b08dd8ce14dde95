# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax.models.norms import group_norm

EPSILON = 1e-3


def plain(x, scale, bias):
    """The definition, left to autodiff."""
    variance = x.var((1, 3), keepdims=True)
    return (x - x.mean((1, 3), keepdims=True)) / jnp.sqrt(variance + EPSILON) * scale[None, None] + bias[None, None]


def test_values_and_gradients_are_the_definitions():
    r = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, dy = (jnp.asarray(3 * r.normal(size=(2, 5, 3, 4)) + 7) for _ in range(2))
        scale, bias = (jnp.asarray(r.normal(size=(3, 4))) for _ in range(2))
        ours, pull_ours = jax.vjp(lambda *inputs: group_norm(*inputs, EPSILON), x, scale, bias)
        theirs, pull_theirs = jax.vjp(plain, x, scale, bias)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        for a, b in zip(pull_ours(dy), pull_theirs(dy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_an_offset_of_the_input_does_not_matter(getkey):
    """Also in float32, where sums of squares would lose a variance of 1 beside a mean of 10 000."""
    x = jnp.round(16 * jax.random.normal(getkey(), (2, 64, 2, 8))) / 16  # so that adding the offset is exact
    ones = jnp.ones((2, 8))

    def both(x):
        y, pull = jax.vjp(lambda x: group_norm(x, ones, ones, EPSILON), x)
        return y, pull(jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape))[0]

    for near, far in zip(both(x), both(x + 1e4), strict=True):
        np.testing.assert_allclose(near, far, atol=5e-3)
