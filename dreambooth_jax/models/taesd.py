# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The tiny autoencoder (TAESD, https://github.com/madebyollin/taesd): convolutions and rectifiers, distilled from the
autoencoder of Stable Diffusion, whose scaled latents it takes as they are. It is a fiftieth of that one.

Pieces are numbered as in PyTorch's ``Sequential``, where activations and changes of size count, too.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.layers import conv, wide
from dreambooth_jax.models.model_config import Choices, ModelConfig

Features = Float[Array, "b h w c"]


@dataclass(frozen=True, kw_only=True)
class TAESDConfig(ModelConfig):
    """Shapes, as in the ``config.json`` of diffusers' ``AutoencoderTiny``."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    latent_channels: int = 4
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)

    CHOICES: ClassVar[Choices] = {
        "_class_name": ("AutoencoderTiny",),
        "act_fn": ("relu",),
        "scaling_factor": (1, 1.0),
        "shift_factor": (0, 0.0),
        "upsample_fn": ("nearest",),
        "upsampling_scaling_factor": (2,),
    }
    IRRELEVANT = (
        "block_out_channels",  # again those of the decoder
        "force_upcast",
        "latent_magnitude",  # of latents that are stored as bytes
        "latent_shift",
    )
    PER_BLOCK = (
        *("encoder_block_out_channels", "decoder_block_out_channels"),
        *("num_encoder_blocks", "num_decoder_blocks"),
    )
    DEPTHS = ("num_encoder_blocks", "num_decoder_blocks")

    def __post_init__(self) -> None:
        for half in ("encoder", "decoder"):
            channels, counts = (getattr(self, f"{half}_block_out_channels"), getattr(self, f"num_{half}_blocks"))
            if len(channels) != len(counts):
                raise InputError(f"num_{half}_blocks = {counts} has not one value for each of {channels}")
            if len(set(channels)) > 1:  # the pieces that change the size keep the channels
                raise self._unsupported(f"{half}_block_out_channels", channels, "the same everywhere")

    @property
    def downscale(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.decoder_block_out_channels) - 1)


class TinyBlock(nn.Module):
    """relu(x + three convolutions of x)."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Features) -> Features:
        h = x
        for number in (0, 2, 4):
            h = conv(self.features, dtype=self.dtype, name=f"conv_{number}")(h if number == 0 else jax.nn.relu(h))
        return jax.nn.relu(x + h)


class TinyEncoder(nn.Module):
    """Pictures to scaled latents."""

    config: TAESDConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w z"]:
        """Latents of images in [-1, 1], in at least float32."""
        config, number = self.config, 0
        x = (images.astype(self.dtype) + 1) / 2
        for stage, (width, count) in enumerate(zip(config.encoder_block_out_channels, config.num_encoder_blocks)):
            strides, name = 1 + (stage > 0), f"layers_{number}"
            x = nn.Conv(width, (3, 3), strides, padding=1, use_bias=stage == 0, dtype=self.dtype, name=name)(x)
            for block in range(number + 1, number + 1 + count):
                x = TinyBlock(width, dtype=self.dtype, name=f"layers_{block}")(x)
            number += 1 + count
        return conv(config.latent_channels, dtype=self.dtype, name=f"layers_{number}")(x).astype(wide(self.dtype))


class TinyDecoder(nn.Module):
    """Scaled latents to pictures."""

    config: TAESDConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "b h w z"]) -> Float[Array, "b H W c"]:
        """Images, in [-1, 1] but for overshoot, in at least float32."""
        config = self.config
        widths, counts = config.decoder_block_out_channels, config.num_decoder_blocks
        x = 3 * jnp.tanh(latents.astype(self.dtype) / 3)
        x = jax.nn.relu(conv(widths[0], dtype=self.dtype, name="layers_0")(x))
        number = 2
        for stage, (width, count) in enumerate(zip(widths, counts)):
            for block in range(number, number + count):
                x = TinyBlock(width, dtype=self.dtype, name=f"layers_{block}")(x)
            number += count
            if is_last := stage == len(counts) - 1:
                width = config.out_channels
            else:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                number += 1
            name = f"layers_{number}"
            x = nn.Conv(width, (3, 3), padding=1, use_bias=is_last, dtype=self.dtype, name=name)(x)
            number += 1
        return (2 * x - 1).astype(wide(self.dtype))


class AutoencoderTiny(nn.Module):
    """Both halves.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
    """

    config: TAESDConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.encoder = TinyEncoder(self.config, dtype=self.dtype)
        self.decoder = TinyDecoder(self.config, dtype=self.dtype)

    def encode(self, images: Float[Array, "b H W c"]) -> Float[Array, "b h w z"]:
        """Scaled latents of images in [-1, 1]."""
        return self.encoder(images)

    def decode(self, latents: Float[Array, "b h w z"]) -> Float[Array, "b H W c"]:
        """Images, in [-1, 1] but for overshoot, from scaled latents."""
        return self.decoder(latents)

    def __call__(self, images: Float[Array, "b H W c"]) -> Float[Array, "b H W c"]:
        """Reconstruction: touches every parameter, so that ``init`` makes them all."""
        return self.decode(self.encode(images))
