# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The residual block of UNet and VAE: x + conv(silu(norm(conv(silu(norm(x))) + time)))."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.layers import GroupNorm, conv


class ResnetBlock(nn.Module):
    """Two convolutions around which x is passed on, by a 1x1 convolution where the number of channels changes.

    Attributes:
        features: channels of the result.
        groups: of the norms.
        epsilon: of the norms.
        dtype: what to compute in.
    """

    features: int
    groups: int
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], time: Float[Array, "b t"] | None = None
    ) -> Float[Array, "b h w features"]:
        """``time``: the embedded timestep after its activation; without it the block has no time projection."""
        h = jax.nn.silu(GroupNorm(self.groups, self.epsilon, dtype=self.dtype, name="norm1")(x))
        h = conv(self.features, dtype=self.dtype, name="conv1")(h)
        if time is not None:
            h += nn.Dense(self.features, dtype=self.dtype, name="time_emb_proj")(time)[:, None, None, :]
        h = jax.nn.silu(GroupNorm(self.groups, self.epsilon, dtype=self.dtype, name="norm2")(h))
        h = conv(self.features, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, size=1, dtype=self.dtype, name="conv_shortcut")(x)
        return x + h
