# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""IP-Adapter (Ye et al. 2023, arXiv 2308.06721): an image as a few tokens that cross-attention looks at beside text.

CLIP's embedding of the image -> projection -> tokens [b, n, d]; for each cross-attention of the denoiser keys and
values of them, by matrices of its own. There are three projections, named as in the published files:

    plain   a dense layer of the image's embedding, split into tokens, and a norm
    plus    tokens that are asked for: a perceiver over the hidden states of CLIP's last layer but one
    full    two dense layers and a norm of each of these hidden states
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.attention import attention
from dreambooth_jax.models.layers import LayerNorm, gelu
from dreambooth_jax.target import CPU, Arch

_HEAD = 64
"""Size of a perceiver's head."""
_EPSILON = 1e-5


class PlainProjection(nn.Module):
    """A dense layer, split into tokens, and a norm."""

    tokens: int
    features: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, embedding: Float[Array, "b e"]) -> Float[Array, "b n d"]:
        x = nn.Dense(self.tokens * self.features, dtype=self.dtype, name="proj")(embedding)
        x = x.reshape(len(embedding), self.tokens, self.features)
        return LayerNorm(_EPSILON, dtype=self.dtype, name="norm")(x)


class PerceiverAttention(nn.Module):
    """Latents ask what there is, themselves included."""

    heads: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], latents: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        x = LayerNorm(_EPSILON, dtype=self.dtype, name="norm1")(x)
        asking = LayerNorm(_EPSILON, dtype=self.dtype, name="norm2")(latents)
        size = self.heads * _HEAD

        def dense(features: int, name: str, source: Array) -> Array:
            return nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)(source)

        def split(projected: Array) -> Array:
            return projected.reshape(*projected.shape[:2], self.heads, _HEAD)

        key, value = jnp.split(dense(2 * size, "to_kv", jnp.concatenate([x, asking], axis=1)), 2, axis=-1)
        h = attention(split(dense(size, "to_q", asking)), split(key), split(value), arch=self.arch)
        return dense(latents.shape[-1], "to_out", h.reshape(*latents.shape[:2], size))


class PlusProjection(nn.Module):
    """A perceiver: a fixed number of tokens of any number of hidden states."""

    tokens: int
    features: int
    width: int
    layers: int
    heads: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, states: Float[Array, "b t c"]) -> Float[Array, "b n d"]:
        latents = self.param("latents", nn.initializers.normal(), (1, self.tokens, self.width))
        latents = jnp.broadcast_to(latents.astype(self.dtype), (len(states), self.tokens, self.width))
        x = nn.Dense(self.width, dtype=self.dtype, name="proj_in")(states)
        for i in range(self.layers):
            latents += PerceiverAttention(self.heads, self.dtype, self.arch, name=f"layers_{i}_0")(x, latents)
            h = LayerNorm(_EPSILON, dtype=self.dtype, name=f"layers_{i}_1_0")(latents)
            h = nn.Dense(4 * self.width, use_bias=False, dtype=self.dtype, name=f"layers_{i}_1_1")(h)
            latents += nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=f"layers_{i}_1_3")(gelu(h))
        x = nn.Dense(self.features, dtype=self.dtype, name="proj_out")(latents)
        return LayerNorm(_EPSILON, dtype=self.dtype, name="norm_out")(x)


class FullProjection(nn.Module):
    """Two dense layers and a norm."""

    features: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, states: Float[Array, "b t c"]) -> Float[Array, "b t d"]:
        h = gelu(nn.Dense(states.shape[-1], dtype=self.dtype, name="proj_0")(states))
        h = nn.Dense(self.features, dtype=self.dtype, name="proj_2")(h)
        return LayerNorm(_EPSILON, dtype=self.dtype, name="proj_3")(h)
