# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""T2I-Adapter (Mou et al. 2023, arXiv 2302.08453): features of a picture, one for each down block of the denoiser, and
in some for its middle.

They depend on the picture alone, so the network runs once a picture, not once a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.layers import conv
from dreambooth_jax.models.model_config import Choices, ModelConfig


class Layout(NamedTuple):
    """Where the features of a kind lie.

    Attributes:
        halves: whether those of a level have half the size of those before.
        coarser: how many times larger latents are than the first ones.
        in_middle: whether the last ones are the middle's.
    """

    halves: Callable[[int], bool]
    coarser: int = 1
    in_middle: bool = False


LAYOUTS = {
    "full_adapter": Layout(lambda level: level > 0),
    "full_adapter_xl": Layout(lambda level: level == 2, coarser=2, in_middle=True),
}
"""By ``adapter_type``. The first is for Stable Diffusion 1; the second for XL, whose first block attends to nothing."""


@dataclass(frozen=True, kw_only=True)
class T2IAdapterConfig(ModelConfig):
    """The shape of one."""

    in_channels: int = 3
    """Of the picture: 1 if it is grey."""
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Of the features."""
    num_res_blocks: int = 2
    downscale_factor: int = 8
    """Side of the square of pixels that becomes one position at first."""
    adapter_type: str = "full_adapter"

    CHOICES: ClassVar[Choices] = {"_class_name": ("T2IAdapter",), "adapter_type": tuple(LAYOUTS)}
    IRRELEVANT = ()
    DEPTHS = ("num_res_blocks",)

    @property
    def layout(self) -> Layout:
        """Where its features lie."""
        return LAYOUTS[self.adapter_type]

    @property
    def blocks(self) -> int:
        """How many of its features are for down blocks; what is left, for the middle."""
        return len(self.channels) - self.layout.in_middle

    @property
    def downscale(self) -> float:
        """Pixels of the picture per latent, along one side."""
        return self.downscale_factor / self.layout.coarser


class AdapterResnetBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        h = jax.nn.relu(conv(x.shape[-1], dtype=self.dtype, name="block1")(x))
        return x + conv(x.shape[-1], size=1, dtype=self.dtype, name="block2")(h)


class AdapterBlock(nn.Module):
    """Average pooling, if it halves the size, a 1x1 convolution, if channels change, and residual blocks."""

    features: int
    layers: int
    halves: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W features"]:
        if self.halves:
            x = _halved(x)
        if x.shape[-1] != self.features:
            x = conv(self.features, size=1, dtype=self.dtype, name="in_conv")(x)
        for i in range(self.layers):
            x = AdapterResnetBlock(dtype=self.dtype, name=f"resnets_{i}")(x)
        return x


class FullAdapter(nn.Module):
    """The network; its names are one level below the model's."""

    config: T2IAdapterConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, picture: Float[Array, "b H W c"]) -> tuple[Array, ...]:
        config, halves = self.config, self.config.layout.halves
        x = _unshuffled(picture.astype(self.dtype), config.downscale_factor)
        x = conv(config.channels[0], dtype=self.dtype, name="conv_in")(x)
        features = []
        for level, size in enumerate(config.channels):
            x = AdapterBlock(size, config.num_res_blocks, halves(level), dtype=self.dtype, name=f"body_{level}")(x)
            features.append(x)
        return tuple(features)


class T2IAdapter(nn.Module):
    """A T2I-Adapter.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
    """

    config: T2IAdapterConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.adapter = FullAdapter(self.config, dtype=self.dtype)

    def __call__(self, picture: Float[Array, "b H W c"]) -> tuple[Array, ...]:
        """Features of a picture in [0, 1]. Where its sides are no multiples of ``downscale_factor``, it goes on behind
        them as it is at the edge."""
        return self.adapter(picture)


def _unshuffled(x: Float[Array, "b H W c"], factor: int) -> Float[Array, "b h w more"]:
    """Each square of pixels as channels, those of a colour together, row by row."""
    sides = [(0, -side % factor) for side in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)), mode="edge") if any(more for _, more in sides) else x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // factor, width // factor, -1)


def _halved(x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Means of two by two, rounded up: at an odd edge, of what is there."""
    padding = tuple((0, side % 2) for side in x.shape[1:3])
    return nn.avg_pool(x, (2, 2), strides=(2, 2), padding=padding, count_include_pad=False)
