# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""ControlNet (Zhang et al. 2023, arXiv 2302.05543): a copy of the UNet's way down that looks at a picture, too.

hint = convolutions(picture)                            once a picture: it depends on neither x nor t
conv_in(x) + hint -> down blocks -> middle block        each result goes through a 1x1 convolution, zero at first
                                                        and is added to the denoiser's skip connections and middle
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from dreambooth_jax.models.condition import Condition, Residuals
from dreambooth_jax.models.configs import UNetEncoderConfig
from dreambooth_jax.models.layers import conv
from dreambooth_jax.models.model_config import Choices
from dreambooth_jax.models.unet_encoder import UNetEncoder


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig(UNetEncoderConfig):
    """The shape of a ControlNet."""

    conditioning_channels: int = 3
    """Of the picture that it looks at."""
    controlnet_conditioning_channel_order: str = "rgb"
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    """Of the convolutions over the picture; all but the first halve its size."""
    global_pool_conditions: bool = False
    """Add the mean over all positions, and to the prompt's half alone: for pictures whose layout does not count."""

    CHOICES: ClassVar[Choices] = {
        **UNetEncoderConfig.CHOICES,
        "_class_name": ("ControlNetModel", "FlaxControlNetModel"),
        "controlnet_conditioning_channel_order": ("rgb", "bgr"),
        "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    }
    IRRELEVANT = (*UNetEncoderConfig.IRRELEVANT, "sample_size")

    @property
    def downscale(self) -> int:
        """Pixels of the picture per latent, along one side."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


class ControlNetConditioningEmbedding(nn.Module):
    """Convolutions that bring a picture to the size of latents."""

    channels: tuple[int, ...]
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, picture: Float[Array, "b H W c"]) -> Float[Array, "b h w features"]:
        x = jax.nn.silu(conv(self.channels[0], dtype=self.dtype, name="conv_in")(picture))
        for i, (before, after) in enumerate(zip(self.channels, self.channels[1:])):
            x = jax.nn.silu(conv(before, dtype=self.dtype, name=f"blocks_{2 * i}")(x))
            halved = nn.Conv(after, (3, 3), strides=2, padding=1, dtype=self.dtype, name=f"blocks_{2 * i + 1}")
            x = jax.nn.silu(halved(x))
        return conv(self.features, dtype=self.dtype, name="conv_out")(x)


class ControlNetModel(UNetEncoder):
    """A ControlNet for Stable Diffusion. Its attributes are those of :class:`UNetEncoder`."""

    config: ControlNetConfig

    def setup(self) -> None:
        super().setup()
        config = self.config
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            config.conditioning_embedding_out_channels, config.block_out_channels[0], dtype=self.dtype
        )
        self.controlnet_down_blocks = [conv(size, size=1, dtype=self.dtype) for size in config.skip_channels]
        self.controlnet_mid_block = conv(config.block_out_channels[-1], size=1, dtype=self.dtype)

    def __call__(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Real[Array, "b"],
        condition: Float[Array, "b s e"] | Condition,
        picture: Float[Array, "b H W channels"],
    ) -> Residuals:
        """What the denoiser is to add: :meth:`residuals` of :meth:`hint`.

        Args:
            latents, timesteps, condition: as the denoiser gets them.
            picture: in [0, 1], of ``config.downscale`` times the latents' size.
        """
        return self.residuals(latents, timesteps, condition, self.hint(picture))

    def hint(self, picture: Float[Array, "b H W channels"]) -> Float[Array, "b h w features"]:
        """What the network sees of a picture in [0, 1]: the same at all timesteps."""
        if self.config.controlnet_conditioning_channel_order == "bgr":
            picture = picture[..., ::-1]
        return self.controlnet_cond_embedding(picture.astype(self.dtype))

    def residuals(
        self,
        latents: Float[Array, "b h w c"],
        timesteps: Real[Array, "b"],
        condition: Float[Array, "b s e"] | Condition,
        hint: Float[Array, "b h w features"],
    ) -> Residuals:
        """Additions to each skip connection and to the middle, in the dtype that is computed in."""
        condition = condition if isinstance(condition, Condition) else Condition(condition)
        x = self.conv_in(latents.astype(self.dtype)) + hint.astype(self.dtype)
        x, skips = self._encode(x, self._embed(timesteps, condition), condition.states.astype(self.dtype))
        found = Residuals(
            skips=tuple(zero(skip) for zero, skip in zip(self.controlnet_down_blocks, skips, strict=True)),
            middle=self.controlnet_mid_block(x),
        )
        if self.config.global_pool_conditions:
            return jax.tree.map(lambda leaf: leaf.mean((1, 2), keepdims=True), found)
        return found


def guess_scales(config: ControlNetConfig) -> Residuals:
    """Factors of residuals where a picture alone shall decide (*guess mode*): from 0.1 at the first skip connection,
    evenly in logarithms, to 1 in the middle; 1 for all where positions are pooled, as diffusers has it."""
    count = len(config.skip_channels)
    if config.global_pool_conditions:
        return Residuals(skips=(1.0,) * count, middle=1.0)
    *skips, middle = np.logspace(-1, 0, count + 1).tolist()
    return Residuals(skips=tuple(skips), middle=middle)
