# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The autoencoder between pictures and latents (Kingma & Welling 2014; Rombach et al. 2022, § 3.1).

encode: picture -> mean and log variance of a Gaussian over z, at an eighth of the size
decode: z -> picture
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.attention import Attention
from dreambooth_jax.models.configs import VAEConfig
from dreambooth_jax.models.layers import Downsample, GroupNorm, Upsample, conv, wide
from dreambooth_jax.models.resnet import ResnetBlock
from dreambooth_jax.target import CPU, Arch

EPSILON = 1e-6
"""Of all group norms."""
Features = Float[Array, "b h w c"]


class VAEAttention(nn.Module):
    """Self-attention with one head over all positions, added to its input."""

    groups: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def setup(self) -> None:
        self.group_norm = GroupNorm(self.groups, EPSILON, dtype=self.dtype)
        self.attention = Attention(heads=1, bias=True, dtype=self.dtype, arch=self.arch)
        nn.share_scope(self, self.attention)  # to_q and its siblings lie beside group_norm

    def __call__(self, x: Features) -> Features:
        tokens = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return x + self.attention(tokens).reshape(x.shape)


class _Block(nn.Module):
    """What the blocks share: ``features`` is the number of channels of the result."""

    config: VAEConfig
    features: int
    dtype: DTypeLike = jnp.float32

    def _resnets(self, count: int) -> list[ResnetBlock]:
        groups = self.config.norm_num_groups
        return [ResnetBlock(self.features, groups, EPSILON, dtype=self.dtype) for _ in range(count)]


class DownBlock(_Block):
    """``DownEncoderBlock2D``: resnets, then half the size."""

    is_last: bool = False

    def setup(self) -> None:
        self.resnets = self._resnets(self.config.layers_per_block)
        down = Downsample(self.features, lopsided=True, dtype=self.dtype)
        self.downsamplers = [] if self.is_last else [down]

    def __call__(self, x: Features) -> Float[Array, "b H W features"]:
        for layer in [*self.resnets, *self.downsamplers]:
            x = layer(x)
        return x


class MidBlock(_Block):
    """Resnet, attention, resnet."""

    arch: Arch = CPU

    def setup(self) -> None:
        self.resnets = self._resnets(2)
        self.attentions = [VAEAttention(self.config.norm_num_groups, dtype=self.dtype, arch=self.arch)]

    def __call__(self, x: Features) -> Features:
        for layer in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = layer(x)
        return x


class UpBlock(_Block):
    """``UpDecoderBlock2D``: resnets, one more than on the way down, then double the size."""

    is_last: bool = False

    def setup(self) -> None:
        self.resnets = self._resnets(self.config.layers_per_block + 1)
        self.upsamplers = [] if self.is_last else [Upsample(self.features, dtype=self.dtype)]

    def __call__(self, x: Features) -> Float[Array, "b H W features"]:
        for layer in [*self.resnets, *self.upsamplers]:
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Picture to moments, before ``quant_conv``."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def setup(self) -> None:
        config, dtype, channels = self.config, self.dtype, self.config.block_out_channels
        self.conv_in = conv(channels[0], dtype=dtype)
        self.down_blocks = [
            DownBlock(config, features, dtype=dtype, is_last=i == len(channels) - 1)
            for i, features in enumerate(channels)
        ]
        self.mid_block = MidBlock(config, channels[-1], dtype=dtype, arch=self.arch)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, EPSILON, dtype=dtype)
        self.conv_out = conv(2 * config.latent_channels, dtype=dtype)

    def __call__(self, x: Features) -> Float[Array, "b H W moments"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.end(x)

    def end(self, x: Features) -> Float[Array, "b h w moments"]:
        """All that happens at the size of the latents, after the down blocks."""
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents, after ``post_quant_conv``, to picture."""

    config: VAEConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def setup(self) -> None:
        config, dtype, channels = self.config, self.dtype, self.config.block_out_channels[::-1]
        self.conv_in = conv(channels[0], dtype=dtype)
        self.mid_block = MidBlock(config, channels[0], dtype=dtype, arch=self.arch)
        self.up_blocks = [
            UpBlock(config, features, dtype=dtype, is_last=i == len(channels) - 1)
            for i, features in enumerate(channels)
        ]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, EPSILON, dtype=dtype)
        self.conv_out = conv(config.out_channels, dtype=dtype)

    def __call__(self, z: Features) -> Float[Array, "b H W out"]:
        x = self.begin(z)
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))

    def begin(self, z: Features) -> Float[Array, "b h w features"]:
        """All that happens at the size of the latents, but for the first of the up blocks."""
        return self.mid_block(self.conv_in(z))


class AutoencoderKL(nn.Module):
    """The autoencoder of Stable Diffusion.

    Attributes:
        config: the network's shape.
        dtype: what to decode in; float32 in the place of float16 where the configuration says ``force_upcast``.
        arch: what to compute on.

    Pictures are encoded in at least float32: once each, before a run or a picture begins, and all that follows is made
    of what the rounding left.
    """

    config: VAEConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def __post_init__(self) -> None:
        if self.config.force_upcast and jnp.dtype(self.dtype) == jnp.float16:
            self.dtype = jnp.float32
        super().__post_init__()

    @property
    def encoding_dtype(self) -> jnp.dtype:
        """What it encodes in."""
        return wide(self.dtype)

    def setup(self) -> None:
        self.encoder = Encoder(self.config, dtype=self.encoding_dtype, arch=self.arch)
        self.quant_conv = conv(2 * self.config.latent_channels, size=1, dtype=self.encoding_dtype)
        self.post_quant_conv = conv(self.config.latent_channels, size=1, dtype=self.dtype)
        self.decoder = Decoder(self.config, dtype=self.dtype, arch=self.arch)

    def encode(self, images: Float[Array, "b H W c"]) -> tuple[Float[Array, "b h w z"], Float[Array, "b h w z"]]:
        """Mean and log variance of z given images in [-1, 1]: raw, not scaled, in at least float32."""
        return self._moments(self.encoder(images.astype(self.encoding_dtype)))

    def encode_end(self, features: Features) -> tuple[Float[Array, "b h w z"], Float[Array, "b h w z"]]:
        """What :meth:`encode` makes of the down blocks' result."""
        return self._moments(self.encoder.end(features))

    def _moments(self, encoded: Features) -> tuple[Float[Array, "b h w z"], Float[Array, "b h w z"]]:
        mean, logvar = jnp.split(self.quant_conv(encoded), 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latents: Float[Array, "b h w z"]) -> Float[Array, "b H W c"]:
        """Images, in [-1, 1] but for overshoot, from raw z (scaled latents / ``scaling_factor``)."""
        x = self.decoder(self.post_quant_conv(latents.astype(self.dtype)))
        return x.astype(wide(self.dtype))

    def decode_begin(self, latents: Float[Array, "b h w z"]) -> Float[Array, "b h w features"]:
        """What the first of the decoder's up blocks is given."""
        return self.decoder.begin(self.post_quant_conv(latents.astype(self.dtype)))

    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b H W c"]:
        """Reconstruction from the mean: touches every parameter, so that ``init`` makes them all."""
        return self.decode(self.encode(images)[0])
