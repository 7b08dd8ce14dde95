# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Classifier-free guidance (arXiv 2207.12598): lean away from what the network would say to the negative prompt.

    p = p_text + (s − 1) (p_text − p_negative)  =  p_negative + s (p_text − p_negative)

The first form is exactly p_text at s = 1. Linear, so it is the same for predictions of ε, x_0 and v.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

Network: TypeAlias = Callable[
    [Float[Array, "n h w c"], Real[Array, ""], Any],
    Float[Array, "n h w c"],
]


def guided(
    network: Network,
    *,
    text: Any,
    negative: Any | None,
    scale: Float[Array, ""],
) -> Callable[[Float[Array, "b h w c"], Real[Array, ""]], Float[Array, "b h w c"]]:
    """``denoise(x, t)`` that asks ``network(x, t, condition)`` about both prompts in one call of twice the batch.

    Args:
        network: prediction for noisy examples, a timestep (a real number), and what the network is told of prompts: a
            pytree whose leaves have a row for each example.
        text: that of the prompts.
        negative: that of the negative prompts; without it there is no guidance, and half the work.
        scale: s. 1 or less means no guidance, as it does in diffusers.
    """
    if negative is None:
        return lambda x, t: network(x, t, text)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), negative, text)

    def denoise(x: Float[Array, "b h w c"], t: Real[Array, ""]) -> Float[Array, "b h w c"]:
        p_negative, p_text = jnp.split(network(jnp.concatenate([x, x]), t, both), 2)
        return p_text + jnp.maximum(scale - 1, 0).astype(x.dtype) * (p_text - p_negative)

    return denoise
