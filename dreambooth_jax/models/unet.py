# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The denoiser ε(x_t, t, text): a UNet over latents that looks at text states (Rombach et al. 2022, § 3.3)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from dreambooth_jax.models.condition import Condition
from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.models.layers import GroupNorm, Remat, conv, timestep_embedding, wide
from dreambooth_jax.models.unet_blocks import DownBlock, MidBlock, UpBlock
from dreambooth_jax.target import CPU, Arch


def _states(condition: Array | Condition) -> Array:
    if not isinstance(condition, Condition):
        return condition
    unused = [name for name, part in condition._asdict().items() if name != "states" and part is not None]
    if unused:
        raise ValueError(f"this network looks at text states alone, not at {', '.join(unused)}")
    return condition.states


class TimestepEmbedding(nn.Module):
    """Two dense layers over the sinusoids of a timestep."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b features"]:
        h = jax.nn.silu(nn.Dense(self.features, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.features, dtype=self.dtype, name="linear_2")(h)


class UNet2DConditionModel(nn.Module):
    """The denoiser of Stable Diffusion 1 and 2.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
        remat: what the backward pass computes again: nothing, each resnet and transformer, or each attention.
        arch: what to compute on.
    """

    config: UNetConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU

    def setup(self) -> None:
        config, dtype = self.config, self.dtype
        how: dict[str, Any] = {"dtype": dtype, "remat": self.remat, "arch": self.arch}
        levels = range(len(config.block_out_channels))
        self.conv_in = conv(config.block_out_channels[0], dtype=dtype)
        self.time_embedding = TimestepEmbedding(4 * config.block_out_channels[0], dtype=dtype)
        self.down_blocks = [DownBlock(config, level, **how) for level in levels]
        self.mid_block = MidBlock(config, levels[-1], **how)
        self.up_blocks = [UpBlock(config, level, **how) for level in reversed(levels)]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, config.norm_eps, dtype=dtype)
        self.conv_out = conv(config.out_channels, dtype=dtype)

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Real[Array, "b"],
        condition: Float[Array, "b s e"] | Condition,
    ) -> Float[Array, "b h w out"]:
        """The prediction that the weights were trained for (noise, or velocity), in at least float32.

        Args:
            latents: noisy latents, scaled. Any height and width will do.
            timesteps: of each example, in [0, T − 1]; may be fractional.
            condition: text states, as they are or as a condition that holds nothing else.
        """
        time = jax.nn.silu(self._embed(timesteps))
        text = _states(condition).astype(self.dtype)
        x = self.conv_in(latents.astype(self.dtype))
        skips = [x]
        for down in self.down_blocks:
            x, more = down(x, time, text)
            skips += more
        x = self.mid_block(x, time, text)
        for up in self.up_blocks:
            count = len(up.resnets)
            mine, skips = skips[-count:], skips[:-count]
            _, height, width, _ = (skips or mine)[-1].shape
            x = up(x, mine, time, text, (height, width))
        x = self.conv_out(jax.nn.silu(self.conv_norm_out(x)))
        return x.astype(wide(self.dtype))

    def _embed(self, timesteps: Real[Array, "b"]) -> Float[Array, "b t"]:
        sinusoids = timestep_embedding(
            timesteps,
            self.config.block_out_channels[0],
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
            dtype=self.dtype,
        )
        return self.time_embedding(sinusoids)
