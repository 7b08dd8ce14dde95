# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Classifier-free guidance (arXiv 2207.12598): lean away from what the network would say to the negative prompt.

    p = p_text + (s − 1) (p_text − p_negative)  =  p_negative + s (p_text − p_negative)

The first form is exactly p_text at s = 1. Linear, so it is the same for predictions of ε, x_0 and v.

A large s makes predictions larger than any that the network was trained for. Rescaling (arXiv 2305.08891, section 3.4)
goes a part φ of the way to a prediction with the standard deviation of p_text:

    φ p std(p_text) / std(p) + (1 − φ) p
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

Network: TypeAlias = Callable[
    [Float[Array, "n h w c"], Real[Array, ""], Any],
    Float[Array, "n h w c"],
]


def guided(
    network: Network,
    *,
    text: Any,
    negative: Any | None = None,
    scale: Float[np.ndarray | Array, ""],
    rescale: Float[np.ndarray | Array, ""] | None = None,
) -> Callable[[Float[Array, "b h w c"], Real[Array, ""]], Float[Array, "b h w c"]]:
    """``denoise(x, t)`` that asks ``network(x, t, condition)`` about both prompts in one call of twice the batch.

    Args:
        network: prediction for noisy examples, a timestep (a real number), and what the network is told of prompts: a
            pytree whose leaves have a row for each example.
        text: that of the prompts.
        negative: that of the negative prompts; without it there is no guidance, and half the work.
        scale: s. 1 or less means no guidance, as it does in diffusers.
        rescale: φ, of each example by itself; by default 0.
    """
    if negative is None:
        return lambda x, t: network(x, t, text)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), negative, text)

    def denoise(x: Float[Array, "b h w c"], t: Real[Array, ""]) -> Float[Array, "b h w c"]:
        p_negative, p_text = jnp.split(network(jnp.concatenate([x, x]), t, both), 2)
        p = p_text + jnp.maximum(scale - 1, 0).astype(x.dtype) * (p_text - p_negative)
        if rescale is None:
            return p
        return jax.lax.cond(rescale > 0, _rescaled, lambda p, like, part: p, p, p_text, rescale.astype(x.dtype))

    return denoise


def _rescaled(
    p: Float[Array, "b h w c"], like: Float[Array, "b h w c"], part: Float[Array, ""]
) -> Float[Array, "b h w c"]:
    deviation, wanted = (jnp.std(each, axis=(1, 2, 3), keepdims=True) for each in (p, like))
    return part * (p * (wanted / deviation)) + (1 - part) * p
