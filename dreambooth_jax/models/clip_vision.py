# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""CLIP's image encoder, a vision transformer (Radford et al. 2021, § 2.4): a class token and patches.

Named as ``CLIPVisionModelWithProjection`` of transformers.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.clip_configs import CLIPConfig
from dreambooth_jax.models.clip_text import CLIPEncoder
from dreambooth_jax.models.layers import LayerNorm, wide
from dreambooth_jax.models.model_config import Choices
from dreambooth_jax.target import CPU, Arch


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(CLIPConfig):
    """The shape of an image encoder."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    """Pixels of a side."""
    patch_size: int = 32
    projection_dim: int = 512

    CHOICES: ClassVar[Choices] = {
        **CLIPConfig.CHOICES,
        "model_type": ("clip_vision_model",),
        "num_channels": (3,),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_divides("patch_size", self.patch_size, (self.image_size,))


class CLIPVisionEmbeddings(nn.Module):
    """A class token and the patches, row by row, plus position."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b t d"]:
        config, size = self.config, self.config.patch_size
        token = self.param("class_embedding", nn.initializers.normal(), (config.hidden_size,))
        patches = nn.Conv(
            config.hidden_size,
            (size, size),
            strides=size,
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="patch_embedding",
        )(pixels.astype(self.dtype)).reshape(len(pixels), -1, config.hidden_size)
        first = jnp.broadcast_to(token.astype(self.dtype), (len(pixels), 1, config.hidden_size))
        tokens = jnp.concatenate([first, patches], axis=1)
        positions = nn.Embed(tokens.shape[1], config.hidden_size, dtype=self.dtype, name="position_embedding")
        return tokens + positions(jnp.arange(tokens.shape[1]))[None]


class CLIPVisionTransformer(nn.Module):
    """Embeddings, a norm, layers, and a norm of the class token."""

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def setup(self) -> None:
        self.embeddings = CLIPVisionEmbeddings(self.config, dtype=self.dtype)
        self.pre_layrnorm = LayerNorm(self.config.layer_norm_eps, dtype=self.dtype)  # their spelling
        self.encoder = CLIPEncoder(self.config, dtype=self.dtype, arch=self.arch, causal=False)
        self.post_layernorm = LayerNorm(self.config.layer_norm_eps, dtype=self.dtype)

    def tokens(self, pixels: Float[Array, "b h w c"], count: int) -> Float[Array, "b t d"]:
        """Hidden states after ``count`` layers."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixels)), count)

    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        return self.post_layernorm(self.tokens(pixels, self.config.num_hidden_layers)[:, 0])


class CLIPVisionModelWithProjection(nn.Module):
    """CLIP's image encoder.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
        arch: what to compute on.
    """

    config: CLIPVisionConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    def setup(self) -> None:
        self.vision_model = CLIPVisionTransformer(self.config, dtype=self.dtype, arch=self.arch)
        self.visual_projection = nn.Dense(self.config.projection_dim, use_bias=False, dtype=self.dtype)

    def __call__(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b p"]:
        """The image's embedding, in at least float32.

        Args:
            pixels: normalised, of ``config.image_size``.
        """
        return self.visual_projection(self.vision_model(pixels)).astype(wide(self.dtype))

    def hidden_states(self, pixels: Float[Array, "b h w c"]) -> Float[Array, "b t d"]:
        """What the last layer but one says of the class token and each patch, in at least float32."""
        return self.vision_model.tokens(pixels, self.config.num_hidden_layers - 1).astype(wide(self.dtype))
