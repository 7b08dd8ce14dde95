# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The UNet's blocks: residual blocks and transformers on the way down, in the middle, and on the way up.

down:  x -> [resnet (-> transformer)] * layers (-> half size), each result is also a skip connection
up:    x -> [x ∥ skip -> resnet (-> transformer)] * (layers + 1) (-> double size)
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.attention import Attention, Context
from dreambooth_jax.models.configs import UNetConfig, UNetEncoderConfig
from dreambooth_jax.models.in_a_loop import alike, in_a_loop
from dreambooth_jax.models.layers import Downsample, GroupNorm, LayerNorm, Remat, Upsample, conv, gelu, recomputed
from dreambooth_jax.models.resnet import ResnetBlock
from dreambooth_jax.target import CPU, Arch

Features = Float[Array, "b h w c"]
Text = Float[Array, "b s e"] | Context
Time = Float[Array, "b t"]


class GEGLU(nn.Module):
    """A gated dense layer: a ∙ gelu(b) (Shazeer 2020)."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t features"]:
        value, gate = jnp.split(nn.Dense(2 * self.features, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    """Four times as wide inside."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        h = GEGLU(4 * x.shape[-1], dtype=self.dtype, name="net_0")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """x + attn1(norm1(x)), then x + attn2(norm2(x), text), then x + ff(norm3(x)).

    Attributes:
        heads: of both attentions.
        only_cross_attention: attn1 looks at the text, too, and not at x itself.
        dtype: what to compute in.
        remat: compute attentions again in the backward pass, if it says so.
        arch: what to compute on.
    """

    heads: int
    only_cross_attention: bool
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU

    def setup(self) -> None:
        self.norm1, self.norm2, self.norm3 = (LayerNorm(1e-5, dtype=self.dtype) for _ in range(3))
        cls = recomputed(Attention, self.remat == "attention")
        self.attn1, self.attn2 = (cls(self.heads, dtype=self.dtype, arch=self.arch) for _ in range(2))
        self.ff = FeedForward(dtype=self.dtype)

    def __call__(self, x: Float[Array, "b t c"], text: Text) -> Float[Array, "b t c"]:
        states = text.states if isinstance(text, Context) else text
        x = x + self.attn1(self.norm1(x), states if self.only_cross_attention else None)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    """Positions of the picture become tokens, pass through transformer blocks and are added to the picture.

    Attributes:
        heads: of each attention.
        layers: number of blocks.
        groups: of the norm.
        linear: project by dense layers rather than by 1x1 convolutions.
        only_cross_attention: as in :class:`TransformerBlock`.
        dtype, remat, arch: as in :class:`TransformerBlock`.
        scan: compile one of several blocks, and loop over them.
    """

    heads: int
    layers: int
    groups: int
    linear: bool
    only_cross_attention: bool = False
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    scan: bool = False

    @nn.compact
    def __call__(self, x: Features, text: Text) -> Features:
        channels = x.shape[-1]

        def project(name: str, h: Array) -> Array:  # the same map in both cases; only the kernel's shape differs
            if self.linear:
                return nn.Dense(channels, dtype=self.dtype, name=name)(h)
            return conv(channels, size=1, dtype=self.dtype, name=name)(h)

        h = GroupNorm(self.groups, 1e-6, dtype=self.dtype, name="norm")(x)
        h = project("proj_in", h).reshape(x.shape[0], -1, channels)
        return x + project("proj_out", self._row(h, text).reshape(x.shape))

    def _row(self, h: Float[Array, "b t c"], text: Text) -> Float[Array, "b t c"]:
        """One block after the other: in a loop, if asked to, where all are alike in what stands next to them, too."""
        names = [f"transformer_blocks_{i}" for i in range(self.layers)]
        again = self.remat == "blocks" and self.layers > 1
        if self.scan and self.layers > 1 and not self.is_initializing():
            own = [(self._variables(name), self._images(name, text)) for name in names]
            if alike(own):
                return in_a_loop(self._apart(text), own, h, again=again)
        cls = recomputed(TransformerBlock, again)
        for name in names:
            h = self._block(cls, name=name)(h, text)
        return h

    def _apart(self, text: Text) -> Callable[[Any, Array], Array]:
        """A block that is told its variables and images."""
        block = self._block(TransformerBlock, parent=None)

        def call(own: tuple[dict[str, Any], dict[str, Any]], h: Array) -> Array:
            variables, images = own
            seen = Context(text.states, images) if isinstance(text, Context) else text
            return cast("Array", block.apply(variables, h, seen))

        return call

    def _block(self, cls: type[nn.Module], **place: Any) -> nn.Module:
        how = {"dtype": self.dtype, "remat": self.remat, "arch": self.arch}
        return cls(self.heads, self.only_cross_attention, **how, **place)

    def _variables(self, name: str) -> dict[str, Any]:
        """Of a block, by their collections."""
        return {kind: tree[name] for kind, tree in self.variables.items() if name in tree}

    def _images(self, name: str, text: Text) -> dict[str, Any]:
        """What a block's attentions look at besides the text, by their paths in the block."""
        place = "/".join((*self.path, name, ""))
        images = text.images if isinstance(text, Context) else {}
        return {path.removeprefix(place): value for path, value in images.items() if path.startswith(place)}


class _Block(nn.Module):
    """What the three kinds of blocks share.

    Attributes:
        config: the UNet's shape.
        level: index of the block's channels, heads and layers in the config: 0 at full size.
        dtype: what to compute in.
        remat: what the backward pass computes again.
        arch: what to compute on.
        scan: as in :class:`Transformer`.
    """

    config: UNetEncoderConfig
    level: int
    dtype: DTypeLike = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    scan: bool = False

    @property
    def features(self) -> int:
        return self.config.block_out_channels[self.level]

    def _resnet(self) -> nn.Module:
        cls = recomputed(ResnetBlock, self.remat == "blocks")
        return cls(self.features, self.config.norm_num_groups, self.config.norm_eps, dtype=self.dtype)

    def _transformer(self, depth: int, only_cross_attention: bool) -> nn.Module:
        config = self.config
        # One with several blocks computes each of them again by itself: all at once would need what all of them keep.
        cls = recomputed(Transformer, self.remat == "blocks" and depth == 1)
        return cls(
            config.heads[self.level],
            depth,
            config.norm_num_groups,
            config.use_linear_projection,
            only_cross_attention,
            dtype=self.dtype,
            remat=self.remat,
            arch=self.arch,
            scan=self.scan,
        )

    def _layers(self, depths: tuple[int, ...], block_type: str) -> tuple[list[nn.Module], list[nn.Module]]:
        """Resnets, and as many transformers, of these depths, where the block's type has them."""
        only_cross_attention = self.config.per_block(self.config.only_cross_attention)[self.level]
        transformers = depths if block_type.startswith("CrossAttn") else ()
        return (
            [self._resnet() for _ in depths],
            [self._transformer(depth, only_cross_attention) for depth in transformers],
        )


class DownBlock(_Block):
    """``CrossAttnDownBlock2D`` or ``DownBlock2D``."""

    def setup(self) -> None:
        config = self.config
        self.resnets, self.attentions = self._layers(config.depths(self.level), config.down_block_types[self.level])
        is_last = self.level == len(config.block_out_channels) - 1
        self.downsamplers = [] if is_last else [Downsample(self.features, dtype=self.dtype)]

    def __call__(
        self, x: Features, time: Time, text: Text, addition: Float[Array, "b H W features"] | None = None
    ) -> tuple[Array, list[Array]]:
        """The block's result and its skip connections. ``addition``: to its last attention, or to its result where
        there is none, and so to the last skip connection."""
        skips = []
        last = len(self.resnets) - 1
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[i](x, text)
                x = x + addition if i == last and addition is not None else x
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        if addition is not None and not self.attentions:
            x = skips[-1] = x + addition
        return x, skips


class MidBlock(_Block):
    """``UNetMidBlock2DCrossAttn``: resnet, transformer, resnet; ``UNetMidBlock2D``: one resnet; or nothing at all."""

    def setup(self) -> None:
        layers, depth = self.config.middle_layers, self.config.middle_depth
        self.resnets = [self._resnet() for _ in range(layers + 1)]
        self.attentions = [self._transformer(depth, only_cross_attention=False) for _ in range(layers)]

    def __call__(self, x: Features, time: Time, text: Text) -> Features:
        for i, resnet in enumerate(self.resnets):
            x = self.attentions[i - 1](x, text) if i else x
            x = resnet(x, time)
        return x


class UpBlock(_Block):
    """``CrossAttnUpBlock2D`` or ``UpBlock2D``."""

    config: UNetConfig

    def setup(self) -> None:
        config = self.config
        depths = config.up_depths(self.level)
        self.resnets, self.attentions = self._layers(depths, config.up_block_types[-1 - self.level])
        self.upsamplers = [] if self.level == 0 else [Upsample(self.features, dtype=self.dtype)]

    def __call__(
        self, x: Features, skips: Sequence[Array], time: Time, text: Text, size: tuple[int, int]
    ) -> Float[Array, "b H W features"]:
        """``skips``: one for each layer, the first is used last. ``size``: height and width of the next block."""
        for i, (resnet, skip) in enumerate(zip(self.resnets, reversed(skips), strict=True)):
            x = resnet(jnp.concatenate([x, skip], axis=-1), time)
            if self.attentions:
                x = self.attentions[i](x, text)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x
