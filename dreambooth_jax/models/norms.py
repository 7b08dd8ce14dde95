# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Group and layer norm with a backward pass of their own: two sums and one pass over what is normalised.

For the N numbers that share a mean and a variance, r = (variance + ε)^-½ and x̂ = (x - mean) r:

    y = x̂ scale + bias
    dbias = Σ dy        dscale = Σ dy x̂        dx = r (dy scale - ⟨dy scale⟩ - x̂ ⟨dy scale x̂⟩)        ⟨a⟩ = Σ a / N

Group norm takes its sums over positions, Σ dy and Σ dy (x - mean), channel by channel; all else happens on one number
a channel. Left to itself, autodiff goes over the picture twice as often, in as many programs to compile.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def group_norm(
    x: Float[Array, "b p g m"], scale: Float[Array, "g m"], bias: Float[Array, "g m"], epsilon: float
) -> Float[Array, "b p g m"]:
    """Normalised over the p positions and m members of each of g groups, per example, in the dtype of all three.

    Args:
        x: of at least float32: nothing here is computed more precisely than it.
        scale, bias: of each channel.
        epsilon: added to the variance.
    """
    return _group_forward(x, scale, bias, epsilon)[0]


def _group_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple]:
    mean = x.mean((1, 3), keepdims=True)
    r = jax.lax.rsqrt(jnp.square(x - mean).mean((1, 3), keepdims=True) + epsilon)
    return (x - mean) * (r * scale[None, None]) + bias[None, None], (x, mean, r, scale)


def _group_backward(epsilon: float, residuals: tuple, dy: Array) -> tuple[Array, Array, Array]:
    x, mean, r, scale = residuals
    positions, scale = x.shape[1], scale[None, None]
    dbias = dy.sum(1, keepdims=True)
    dscale = (dy * (x - mean)).sum(1, keepdims=True) * r
    offset = (dbias * scale).mean(3, keepdims=True) / positions
    slope = (dscale * scale).mean(3, keepdims=True) / positions
    dx = dy * (r * scale) - r * offset - (x - mean) * (r * r * slope)
    return dx, dscale.sum((0, 1)), dbias.sum((0, 1))


group_norm.defvjp(_group_forward, _group_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*tokens c"], scale: Float[Array, "c"], bias: Float[Array, "c"], epsilon: float
) -> Float[Array, "*tokens c"]:
    """Normalised over the channels of each token; all as for :func:`group_norm`."""
    return _layer_forward(x, scale, bias, epsilon)[0]


def _layer_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple]:
    mean = x.mean(-1, keepdims=True)
    r = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
    scale, bias = (leaf.reshape((1,) * (x.ndim - 1) + leaf.shape) for leaf in (scale, bias))
    return (x - mean) * r * scale + bias, (x, mean, r, scale)


def _layer_backward(epsilon: float, residuals: tuple, dy: Array) -> tuple[Array, Array, Array]:
    x, mean, r, scale = residuals
    tokens = tuple(range(x.ndim - 1))
    offset = (dy * scale).mean(-1, keepdims=True)
    slope = (dy * scale * (x - mean)).mean(-1, keepdims=True) * r * r
    dx = (dy * scale - offset - (x - mean) * slope) * r
    return dx, (dy * (x - mean) * r).sum(tokens), dy.sum(tokens)


layer_norm.defvjp(_layer_forward, _layer_backward)
