# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Small layers that all three networks are made of.

Every layer computes in ``dtype``, except that statistics of norms are never taken below float32. Parameters have a
dtype of their own and are cast where they are used. Leaves are called ``kernel`` ([height, width, in, out] of a
convolution, [in, out] of a dense layer), ``bias`` and ``scale``.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from dreambooth_jax.models.norms import group_norm, layer_norm

Remat = Literal["nothing", "blocks", "attention"]
"""What the backward pass computes again instead of keeping it."""


def recomputed(cls: type[nn.Module], again: bool) -> type[nn.Module]:
    """A module whose inside is computed again in the backward pass, if so asked; its parameters keep their names."""
    return nn.remat(cls) if again else cls


def wide(dtype: DTypeLike) -> jnp.dtype:
    """``dtype``, but at least float32: what sums over many numbers are taken in."""
    return jnp.promote_types(dtype, jnp.float32)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Φ(x) with the exact error function (Hendrycks & Gimpel 2016), not its tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x σ(1.702 x), which OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def timestep_embedding(
    timesteps: Real[Array, "b"], size: int, *, flip_sin_to_cos: bool, freq_shift: float, dtype: DTypeLike
) -> Float[Array, "b size"]:
    """Sinusoids of the timestep (Vaswani et al. 2017, § 3.5), with frequencies 10000^(-i / (size/2 - freq_shift)).

    Args:
        timesteps: in [0, T − 1]; may be fractional.
        size: number of features, even.
        flip_sin_to_cos: cosines first.
        freq_shift: 0 or 1: where the lowest frequency lies.
        dtype: of the result; computed in at least float32.
    """
    precise = wide(dtype)
    half = size // 2
    # Rounded at every step as the pretrained weights' own code rounds, for parity at large timesteps.
    exponents = -math.log(10000) * np.arange(half, dtype=precise) / (half - freq_shift)
    angles = timesteps.astype(precise)[:, None] * jnp.exp(exponents.astype(precise))[None, :]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1).astype(dtype)


def conv(features: int, *, dtype: DTypeLike, size: int = 3, name: str | None = None) -> nn.Conv:
    """A convolution that keeps height and width."""
    return nn.Conv(features, (size, size), padding=size // 2, dtype=dtype, name=name)


class GroupNorm(nn.Module):
    """Normalisation over all positions and the channels of one group (Wu & He 2018), with statistics per example."""

    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *positions c"]) -> Float[Array, "b *positions c"]:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        precise = wide(self.dtype)
        h = x.astype(precise).reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        h = group_norm(h, *(leaf.astype(precise).reshape(self.groups, -1) for leaf in (scale, bias)), self.epsilon)
        return h.reshape(x.shape).astype(self.dtype)


class LayerNorm(nn.Module):
    """Normalisation over the channels of each token (Ba et al. 2016)."""

    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*tokens c"]) -> Float[Array, "*tokens c"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        h = layer_norm(*(leaf.astype(wide(self.dtype)) for leaf in (x, scale, bias)), self.epsilon)
        return h.astype(self.dtype)


class Upsample(nn.Module):
    """Nearest neighbour to twice the size (or one less, where that is where the skip connection is), then convolve."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None
    ) -> Float[Array, "b H W features"]:
        height, width = size or (2 * x.shape[1], 2 * x.shape[2])
        x = x.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
        return conv(self.features, dtype=self.dtype, name="conv")(x)


class Downsample(nn.Module):
    """A convolution of stride two. The UNet pads all sides, the VAE (``lopsided``) only the bottom and the right."""

    features: int
    lopsided: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W features"]:
        padding = (0 if self.lopsided else 1, 1)
        return nn.Conv(self.features, (3, 3), strides=2, padding=(padding, padding), dtype=self.dtype, name="conv")(x)
