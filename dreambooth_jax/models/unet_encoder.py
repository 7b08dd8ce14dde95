# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The way down and the middle of a UNet: what the denoiser and a ControlNet, which is a copy of it, have in common."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from dreambooth_jax.models.condition import Condition
from dreambooth_jax.models.configs import UNetEncoderConfig
from dreambooth_jax.models.layers import Remat, conv, timestep_embedding
from dreambooth_jax.models.unet_blocks import DownBlock, Features, MidBlock, Text, Time
from dreambooth_jax.target import CPU, Arch


class TimestepEmbedding(nn.Module):
    """Two dense layers over the sinusoids of a timestep, to which a projection of other features may be added."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"], more: Float[Array, "b d"] | None = None) -> Float[Array, "b features"]:
        if more is not None:
            x = x + nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="cond_proj")(more)
        h = jax.nn.silu(nn.Dense(self.features, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.features, dtype=self.dtype, name="linear_2")(h)


class UNetEncoder(nn.Module):
    """Timestep embedding, first convolution, down blocks and middle block.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
        remat: what the backward pass computes again: nothing, each resnet and transformer, or each attention.
        arch: what to compute on.
        scan: compile one of several transformer blocks in a row, and loop over them.
    """

    config: UNetEncoderConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    scan: bool = False

    def setup(self) -> None:
        config = self.config
        levels = range(len(config.block_out_channels))
        self.conv_in = conv(config.block_out_channels[0], dtype=self.dtype)
        self.time_embedding = TimestepEmbedding(4 * config.block_out_channels[0], dtype=self.dtype)
        self.down_blocks = [DownBlock(config, level, **self._how) for level in levels]
        self.mid_block = MidBlock(config, levels[-1], **self._how)
        if config.addition_embed_type:
            self.add_embedding = TimestepEmbedding(4 * config.block_out_channels[0], dtype=self.dtype)

    @property
    def _how(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "remat": self.remat, "arch": self.arch, "scan": self.scan}

    def _embed(
        self,
        timesteps: Real[Array, "b"],
        condition: Condition,
        more: Time | None = None,
        guidance: Float[Array, "b d"] | None = None,
    ) -> Time:
        """The embedded timestep, and what else is embedded with it, after the activation, as blocks take it."""
        time = self.time_embedding(self._sinusoids(timesteps, self.config.block_out_channels[0]), guidance)
        time = time if more is None else time + more
        return jax.nn.silu(time + self._addition(condition) if self.config.addition_embed_type else time)

    def _sinusoids(self, numbers: Real[Array, "n"], size: int) -> Float[Array, "n size"]:
        return timestep_embedding(
            numbers,
            size,
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
            dtype=self.dtype,
        )

    def _addition(self, condition: Condition) -> Time:
        """Embedding of the whole text and of the sizes, each of them as a timestep is (arXiv 2307.01952, § 2.2)."""
        pooled, sizes, width = condition.pooled, condition.sizes, self.config.addition_time_embed_dim
        if pooled is None or sizes is None or width is None:
            raise ValueError("this network needs a condition with pooled and sizes")
        sinusoids = self._sinusoids(sizes.reshape(-1), width).reshape(len(sizes), -1)
        both = jnp.concatenate([pooled.astype(self.dtype), sinusoids], axis=-1)
        wanted = self.config.projection_class_embeddings_input_dim
        if both.shape[-1] != wanted:
            raise ValueError(f"pooled and sizes are {both.shape[-1]} wide, this network takes {wanted}")
        return self.add_embedding(both)

    def _encode(
        self, x: Features, time: Time, text: Text, additions: Sequence[Array] | None = None
    ) -> tuple[Array, list[Array]]:
        """What the middle block makes of the result of the first convolution, and all skip connections.

        Args:
            x: result of ``conv_in``.
            time: of :meth:`_embed`.
            text: states, in the dtype that is computed in.
            additions: for each down block what is added in it.
        """
        skips = [x]
        for level, down in enumerate(self.down_blocks):
            x, more = down(x, time, text, None if additions is None else additions[level])
            skips += more
        return self.mid_block(x, time, text), skips
