# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Softmax attention."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def attention(
    query: Float[Array, "b t n d"],
    key: Float[Array, "b s n d"],
    value: Float[Array, "b s n d"],
    *,
    causal: bool = False,
) -> Float[Array, "b t n d"]:
    """softmax(q kᵀ / √d) v for each head."""
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal)


class Attention(nn.Module):
    """Multi-head attention with the names of diffusers.

    Attributes:
        heads: number of heads; each has size channels / heads.
        bias: whether the projections of query, key and value have one.
        dtype: what to compute in.
    """

    heads: int
    bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], context: Float[Array, "b s e"] | None = None) -> Float[Array, "b t c"]:
        """Queries from ``x``, keys and values from ``context``, or from ``x`` itself."""
        channels = x.shape[-1]
        context = x if context is None else context

        def heads(name: str, source: Array) -> Array:
            projected = nn.Dense(channels, use_bias=self.bias, dtype=self.dtype, name=name)(source)
            return projected.reshape(*source.shape[:2], self.heads, -1)

        h = attention(heads("to_q", x), heads("to_k", context), heads("to_v", context))
        return nn.Dense(channels, dtype=self.dtype, name="to_out_0")(h.reshape(x.shape))
