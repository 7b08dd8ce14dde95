# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Classifier-free guidance (arXiv 2207.12598): lean away from what the network would say to the negative prompt.

    p = p_text + (s − 1) (p_text − p_negative)  =  p_negative + s (p_text − p_negative)

The first form is exactly p_text at s = 1. Linear, so it is the same for predictions of ε, x_0 and v.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Network: TypeAlias = Callable[
    [Float[Array, "n h w c"], Int[Array, ""], Float[Array, "n t d"]],
    Float[Array, "n h w c"],
]


def guided(
    network: Network,
    *,
    text: Float[Array, "b t d"],
    negative: Float[Array, "b t d"],
    scale: Float[Array, ""],
) -> Callable[[Float[Array, "b h w c"], Int[Array, ""]], Float[Array, "b h w c"]]:
    """``denoise(x, t)`` that asks ``network(x, t, text)`` about both prompts in one call of twice the batch.

    A scale of 1 or less means no guidance, as it does in diffusers.
    """
    both = jnp.concatenate([negative, text])

    def denoise(x: Float[Array, "b h w c"], t: Int[Array, ""]) -> Float[Array, "b h w c"]:
        p_negative, p_text = jnp.split(network(jnp.concatenate([x, x]), t, both), 2)
        return p_text + jnp.maximum(scale - 1, 0).astype(x.dtype) * (p_text - p_negative)

    return denoise
