# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.models.norms import group_norm, layer_norm

EPSILON = 1e-3


def plain(axes):
    """The definition, left to autodiff."""

    def norm(x, scale, bias):
        normal = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + EPSILON)
        return normal * scale[None, None] + bias[None, None]

    return norm


@pytest.mark.parametrize(
    ("norm", "shape", "axes", "channels"),
    [(group_norm, (2, 5, 3, 4), (1, 3), (3, 4)), (layer_norm, (2, 5, 12), -1, (12,))],
)
def test_values_and_gradients_are_the_definitions(norm, shape, axes, channels):
    r = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, dy = (jnp.asarray(3 * r.normal(size=shape) + 7) for _ in range(2))
        scale, bias = (jnp.asarray(r.normal(size=channels)) for _ in range(2))
        ours, pull_ours = jax.vjp(lambda *inputs: norm(*inputs, EPSILON), x, scale, bias)
        theirs, pull_theirs = jax.vjp(plain(axes), x, scale, bias)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        for a, b in zip(pull_ours(dy), pull_theirs(dy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("norm", "shape"), [(group_norm, (2, 64, 2, 8)), (layer_norm, (2, 8, 64))])
def test_an_offset_of_the_input_does_not_matter(getkey, norm, shape):
    """Also in float32, where sums of squares would lose a variance of 1 beside a mean of 10 000."""
    x = jnp.round(16 * jax.random.normal(getkey(), shape)) / 16  # so that adding the offset is exact
    ones = jnp.ones(shape[2:])

    def both(x):
        y, pull = jax.vjp(lambda x: norm(x, ones, ones, EPSILON), x)
        return y, pull(jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape))[0]

    for near, far in zip(both(x), both(x + 1e4), strict=True):
        np.testing.assert_allclose(near, far, atol=5e-3)
