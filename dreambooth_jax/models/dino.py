# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The vision transformers of DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2023): a picture as one vector.

Named as the files of ``ViTModel`` and ``Dinov2Model`` of transformers.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.attention import attention
from dreambooth_jax.models.layers import LayerNorm, gelu, wide
from dreambooth_jax.models.model_config import Choices, ModelConfig
from dreambooth_jax.models.vit_positions import positions_of
from dreambooth_jax.target import CPU, Arch


@dataclass(frozen=True, kw_only=True)
class VisionConfig(ModelConfig):
    """What both have in common."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    """Pixels of the side that there are positions for; those of other sizes lie between them."""
    patch_size: int = 16
    layer_norm_eps: float = 1e-12

    CHOICES: ClassVar[Choices] = {"hidden_act": ("gelu",), "qkv_bias": (True,), "num_channels": (3,)}
    IRRELEVANT: ClassVar[tuple[str, ...]] = (
        *("architectures", "dtype", "torch_dtype", "transformers_version", "initializer_range", "id2label", "label2id"),
        *("attention_probs_dropout_prob", "hidden_dropout_prob", "encoder_stride", "pooler_act", "pooler_output_size"),
        *("drop_path_rate", "layerscale_value", "out_features", "out_indices", "stage_names", "apply_layernorm"),
        *("reshape_hidden_states", "use_mask_token"),
    )
    DEPTHS = ("num_hidden_layers",)
    REAL = ("layer_norm_eps",)

    def __post_init__(self) -> None:
        self._check_divides("num_attention_heads", self.num_attention_heads, (self.hidden_size,))
        self._check_divides("patch_size", self.patch_size, (self.image_size,))


@dataclass(frozen=True, kw_only=True)
class ViTConfig(VisionConfig):
    """The shape of DINO's."""

    intermediate_size: int = 3072

    CHOICES: ClassVar[Choices] = {**VisionConfig.CHOICES, "model_type": ("vit",)}


@dataclass(frozen=True, kw_only=True)
class DINOv2Config(VisionConfig):
    """The shape of DINOv2's. Its giant has another kind of layer, which we don't have."""

    layer_norm_eps: float = 1e-6
    mlp_ratio: int = 4

    CHOICES: ClassVar[Choices] = {**VisionConfig.CHOICES, "model_type": ("dinov2",), "use_swiglu_ffn": (False,)}


class Output(nn.Module):
    """A dense layer in a module of its own, as files name it."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t o"]:
        return nn.Dense(self.features, dtype=self.dtype, name="dense")(x)


class Heads(nn.Module):
    """Queries, keys and values, and what attention makes of them."""

    heads: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        q, k, v = (
            nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(x).reshape(*x.shape[:2], self.heads, -1)
            for name in ("query", "key", "value")
        )
        return attention(q, k, v, arch=self.arch).reshape(x.shape)


class SelfAttention(nn.Module):
    """Attention and a dense layer."""

    heads: int
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        h = Heads(self.heads, self.dtype, self.arch, name="attention")(x)
        return Output(x.shape[-1], self.dtype, name="output")(h)


class ViTLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    config: ViTConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        config = self.config
        h = LayerNorm(config.layer_norm_eps, dtype=self.dtype, name="layernorm_before")(x)
        x = x + SelfAttention(config.num_attention_heads, self.dtype, self.arch, name="attention")(h)
        h = LayerNorm(config.layer_norm_eps, dtype=self.dtype, name="layernorm_after")(x)
        h = gelu(Output(config.intermediate_size, self.dtype, name="intermediate")(h))
        return x + Output(config.hidden_size, self.dtype, name="output")(h)


class LayerScale(nn.Module):
    """A factor for each channel (Touvron et al. 2021)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        factors = self.param("lambda1", nn.initializers.ones_init(), (x.shape[-1],))
        return x * factors.astype(self.dtype)[None, None]


class MLP(nn.Module):
    """Two dense layers."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        h = gelu(nn.Dense(self.features, dtype=self.dtype, name="fc1")(x))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


class DINOv2Layer(nn.Module):
    """x + scale · attention(norm(x)), then x + scale · mlp(norm(x))."""

    config: DINOv2Config
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        config = self.config
        h = LayerNorm(config.layer_norm_eps, dtype=self.dtype, name="norm1")(x)
        h = SelfAttention(config.num_attention_heads, self.dtype, self.arch, name="attention")(h)
        x = x + LayerScale(self.dtype, name="layer_scale1")(h)
        h = LayerNorm(config.layer_norm_eps, dtype=self.dtype, name="norm2")(x)
        h = MLP(config.mlp_ratio * config.hidden_size, self.dtype, name="mlp")(h)
        return x + LayerScale(self.dtype, name="layer_scale2")(h)


class PatchEmbeddings(nn.Module):
    """Patches, row by row."""

    size: int
    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b H W 3"]) -> Float[Array, "b h w c"]:
        window = (self.size, self.size)
        conv = nn.Conv(self.features, window, strides=self.size, padding="VALID", dtype=self.dtype, name="projection")
        return conv(pixels.astype(self.dtype))


class Embeddings(nn.Module):
    """A class token and the patches, plus position."""

    config: VisionConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "b H W 3"]) -> Float[Array, "b t c"]:
        config = self.config
        side, width = config.image_size // config.patch_size, config.hidden_size
        draw = nn.initializers.normal(0.02)
        token = self.param("cls_token", draw, (1, 1, width))
        positions = self.param("position_embeddings", draw, (1, 1 + side * side, width))
        patches = PatchEmbeddings(config.patch_size, width, self.dtype, name="patch_embeddings")(pixels)
        count, rows, columns, _ = patches.shape
        first = jnp.broadcast_to(token.astype(self.dtype), (count, 1, width))
        tokens = jnp.concatenate([first, patches.reshape(count, rows * columns, width)], axis=1)
        return tokens + positions_of(positions, rows, columns).astype(self.dtype)


class VisionEncoder(nn.Module):
    """The stack of layers."""

    config: VisionConfig
    layer: type[nn.Module]
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        for number in range(self.config.num_hidden_layers):
            x = self.layer(self.config, self.dtype, self.arch, name=f"layer_{number}")(x)
        return x


class ViTModel(nn.Module):
    """DINO's image encoder.

    Attributes:
        config: the network's shape.
        dtype: what to compute in.
        arch: what to compute on.
    """

    config: ViTConfig
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, pixels: Float[Array, "b H W 3"]) -> Float[Array, "b c"]:
        """What the last layer says of the class token, in at least float32.

        Args:
            pixels: normalised, both sides multiples of ``config.patch_size``.
        """
        return _class_token(self, ViTLayer, pixels)


class DINOv2Model(nn.Module):
    """DINOv2's image encoder; the attributes are those of :class:`ViTModel`."""

    config: DINOv2Config
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(self, pixels: Float[Array, "b H W 3"]) -> Float[Array, "b c"]:
        """As :class:`ViTModel`."""
        return _class_token(self, DINOv2Layer, pixels)


def _class_token(
    self: ViTModel | DINOv2Model, layer: type[nn.Module], pixels: Float[Array, "b H W 3"]
) -> Float[Array, "b c"]:
    x = Embeddings(self.config, self.dtype, name="embeddings")(pixels)
    x = VisionEncoder(self.config, layer, self.dtype, self.arch, name="encoder")(x)
    return LayerNorm(self.config.layer_norm_eps, dtype=self.dtype, name="layernorm")(x[:, 0]).astype(wide(self.dtype))
