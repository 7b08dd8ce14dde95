# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tiny files in the layout of the original code, made the way its constructors go: names and shapes as they have them.

Nothing here knows diffusers' names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Original:
    """Sizes, called as in the original's configuration files."""

    version: int = 1
    model_channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2)
    attention_levels: tuple[int, ...] = (0,)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    down_depths: tuple[tuple[int, ...], ...] = ()  # of each layer, where those of a level differ
    up_depths: tuple[tuple[int, ...], ...] = ()  # in the order of the way up
    middle_parts: int = 3
    num_res_blocks: int = 1
    in_channels: int = 4
    context_dim: int = 64
    vae_channels: int = 32
    vae_mult: tuple[int, ...] = (1, 2)
    z_channels: int = 4
    layers: int = 2
    vocabulary: int = 553
    positions: int = 77

    def shapes(self) -> Shapes:
        """Name -> shape of every array of the file."""
        text = self._clip() if self.version == 1 else self._open_clip()
        unet = {f"model.diffusion_model.{name}": shape for name, shape in self._unet()}
        vae = {f"first_stage_model.{name}": shape for name, shape in self._vae()}
        return unet | vae | dict(text)

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Random ones; scales of norms around one."""
        rng = np.random.default_rng(seed)

        def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
            noise = rng.normal(size=shape, scale=0.05)
            return (noise + (len(shape) == 1 and name.endswith("weight"))).astype(np.float32)

        return {name: draw(name, shape) for name, shape in self.shapes().items()}

    def write(self, file: Path, **metadata: str) -> Path:
        """The file."""
        save_file(self.arrays(), file, metadata=metadata or None)
        return file

    def _unet(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        base, time = self.model_channels, 4 * self.model_channels
        yield from _dense("time_embed.0", base, time)
        yield from _dense("time_embed.2", time, time)
        yield from self._label_emb(time)
        yield from _conv("input_blocks.0.0", self.in_channels, base, 3)
        channels, kept, row = base, [base], 0
        for level, mult in enumerate(self.channel_mult):
            for i in range(self.num_res_blocks):
                row += 1
                yield from self._resnet(f"input_blocks.{row}.0", channels, mult * base)
                channels = mult * base
                if level in self.attention_levels:
                    yield from self._transformer(
                        f"input_blocks.{row}.1", channels, self._depth(self.down_depths, level, level, i)
                    )
                kept.append(channels)
            if level != len(self.channel_mult) - 1:
                row += 1
                yield from _conv(f"input_blocks.{row}.0.op", channels, channels, 3)
                kept.append(channels)
        yield from self._resnet("middle_block.0", channels, channels)
        if self.middle_parts > 1:
            yield from self._transformer("middle_block.1", channels, self.depths[len(self.channel_mult) - 1])
            yield from self._resnet("middle_block.2", channels, channels)
        row = 0
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_res_blocks + 1):
                yield from self._resnet(f"output_blocks.{row}.0", channels + kept.pop(), mult * base)
                channels, part = mult * base, 1
                if level in self.attention_levels:
                    depth = self._depth(self.up_depths, len(self.channel_mult) - 1 - level, level, i)
                    yield from self._transformer(f"output_blocks.{row}.1", channels, depth)
                    part = 2
                if level and i == self.num_res_blocks:
                    yield from _conv(f"output_blocks.{row}.{part}.conv", channels, channels, 3)
                row += 1
        yield from _norm("out.0", channels)
        yield from _conv("out.2", channels, 4, 3)

    def _depth(self, nested: tuple[tuple[int, ...], ...], block: int, level: int, layer: int) -> int:
        return nested[block][layer] if nested else self.depths[level]

    def _resnet(self, name: str, inner: int, outer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _norm(f"{name}.in_layers.0", inner)
        yield from _conv(f"{name}.in_layers.2", inner, outer, 3)
        yield from _dense(f"{name}.emb_layers.1", 4 * self.model_channels, outer)
        yield from _norm(f"{name}.out_layers.0", outer)
        yield from _conv(f"{name}.out_layers.3", outer, outer, 3)
        if inner != outer:
            yield from _conv(f"{name}.skip_connection", inner, outer, 1)

    def _label_emb(self, time: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        del time
        yield from ()

    def _transformer(self, name: str, width: int, depth: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _norm(f"{name}.norm", width)
        for end in ("proj_in", "proj_out"):
            yield from (
                _conv(f"{name}.{end}", width, width, 1) if self.version == 1 else _dense(f"{name}.{end}", width, width)
            )
        for number in range(depth):
            yield from self._block(f"{name}.transformer_blocks.{number}", width)

    def _block(self, block: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for attention, context in (("attn1", width), ("attn2", self.context_dim)):
            for part, inner in (("to_q", width), ("to_k", context), ("to_v", context)):
                yield f"{block}.{attention}.{part}.weight", (width, inner)
            yield from _dense(f"{block}.{attention}.to_out.0", width, width)
        yield from _dense(f"{block}.ff.net.0.proj", width, 8 * width)
        yield from _dense(f"{block}.ff.net.2", 4 * width, width)
        for i in (1, 2, 3):
            yield from _norm(f"{block}.norm{i}", width)

    def _vae(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        widths, z = [self.vae_channels * mult for mult in self.vae_mult], self.z_channels
        yield from _conv("encoder.conv_in", 3, self.vae_channels, 3)
        width = self.vae_channels
        for level, wide in enumerate(widths):
            for i in range(self.num_res_blocks):
                yield from _vae_resnet(f"encoder.down.{level}.block.{i}", width, wide)
                width = wide
            if level != len(widths) - 1:
                yield from _conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
        yield from _vae_middle("encoder.mid", width)
        yield from _norm("encoder.norm_out", width)
        yield from _conv("encoder.conv_out", width, 2 * z, 3)
        yield from _conv("quant_conv", 2 * z, 2 * z, 1)
        yield from _conv("post_quant_conv", z, z, 1)
        yield from _conv("decoder.conv_in", z, width, 3)
        yield from _vae_middle("decoder.mid", width)
        for level, wide in reversed(list(enumerate(widths))):
            for i in range(self.num_res_blocks + 1):
                yield from _vae_resnet(f"decoder.up.{level}.block.{i}", width, wide)
                width = wide
            if level:
                yield from _conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
        yield from _norm("decoder.norm_out", width)
        yield from _conv("decoder.conv_out", width, 3, 3)

    def _clip(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from self._clip_tower("cond_stage_model.transformer", self.context_dim)

    def _clip_tower(self, prefix: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        top = f"{prefix}.text_model"
        yield f"{top}.embeddings.token_embedding.weight", (self.vocabulary, width)
        yield f"{top}.embeddings.position_embedding.weight", (self.positions, width)
        for i in range(self.layers):
            layer = f"{top}.encoder.layers.{i}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from _dense(f"{layer}.self_attn.{part}", width, width)
            yield from _dense(f"{layer}.mlp.fc1", width, 4 * width)
            yield from _dense(f"{layer}.mlp.fc2", 4 * width, width)
            yield from _norm(f"{layer}.layer_norm1", width)
            yield from _norm(f"{layer}.layer_norm2", width)
        yield from _norm(f"{top}.final_layer_norm", width)

    def _open_clip(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from self._open_clip_tower("cond_stage_model.model", self.context_dim, self.layers)

    def _open_clip_tower(self, top: str, width: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{top}.positional_embedding", (self.positions, width)
        yield f"{top}.token_embedding.weight", (self.vocabulary, width)
        for i in range(layers):
            yield from open_clip_layer(f"{top}.transformer.resblocks.{i}", width)
        yield from _norm(f"{top}.ln_final", width)


@dataclass(frozen=True, kw_only=True)
class OriginalXL(Original):
    """As sgm has it; a tiny one by default. The context is both towers' together."""

    version: int = 3
    attention_levels: tuple[int, ...] = (1,)
    depths: tuple[int, ...] = (0, 2)
    context_dim: int = 64 + 128
    clip_width: int = 64
    open_clip_width: int = 128
    open_clip_layers: int = 3
    projection: int = 96
    sizes: int = 6

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Random ones, but for buffers."""
        drawn = super().arrays(seed) | {f"{self._open_clip_prefix}.logit_scale": np.asarray(math.log(100), np.float32)}
        positions = f"{_XL_CLIP}.text_model.embeddings.position_ids"
        return drawn | ({positions: np.arange(self.positions)[None]} if positions in drawn else {})

    @property
    def _open_clip_prefix(self) -> str:
        return f"conditioner.embedders.{1 if self.clip_width else 0}.model"

    def _open_clip(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.clip_width:
            yield from self._clip_tower(_XL_CLIP, self.clip_width)
            yield f"{_XL_CLIP}.text_model.embeddings.position_ids", (1, self.positions)
        yield from self._open_clip_tower(self._open_clip_prefix, self.open_clip_width, self.open_clip_layers)
        yield f"{self._open_clip_prefix}.text_projection", (self.open_clip_width, self.projection)
        yield f"{self._open_clip_prefix}.logit_scale", ()

    def _label_emb(self, time: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from _dense("label_emb.0.0", self.projection + self.sizes * 256, time)
        yield from _dense("label_emb.0.2", time, time)


_XL_CLIP = "conditioner.embedders.0.transformer"
REFINER = OriginalXL(
    **{"clip_width": 0, "context_dim": 128, "sizes": 5},
    **{"channel_mult": (1, 2, 2), "vae_mult": (1, 2), "depths": (0, 2, 2)},  # the coarsest level has none itself
)
"""A tiny refiner, which has the second tower alone."""


def open_clip_layer(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of a text tower: torch's multi-head attention keeps the projections of q, k and v in one array."""
    yield f"{name}.attn.in_proj_weight", (3 * width, width)
    yield f"{name}.attn.in_proj_bias", (3 * width,)
    yield from _dense(f"{name}.attn.out_proj", width, width)
    yield from _dense(f"{name}.mlp.c_fc", width, 4 * width)
    yield from _dense(f"{name}.mlp.c_proj", 4 * width, width)
    yield from _norm(f"{name}.ln_1", width)
    yield from _norm(f"{name}.ln_2", width)


def _dense(name: str, inner: int, outer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outer, inner)
    yield f"{name}.bias", (outer,)


def _conv(name: str, inner: int, outer: int, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outer, inner, size, size)
    yield f"{name}.bias", (outer,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _vae_resnet(name: str, inner: int, outer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{name}.norm1", inner)
    yield from _conv(f"{name}.conv1", inner, outer, 3)
    yield from _norm(f"{name}.norm2", outer)
    yield from _conv(f"{name}.conv2", outer, outer, 3)
    if inner != outer:
        yield from _conv(f"{name}.nin_shortcut", inner, outer, 1)


def _vae_middle(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _vae_resnet(f"{name}.block_1", width, width)
    yield from _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{name}.attn_1.{part}", width, width, 1)
    yield from _vae_resnet(f"{name}.block_2", width, width)
