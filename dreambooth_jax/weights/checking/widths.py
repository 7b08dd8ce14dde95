# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which layers a network has, and what each takes and gives, by its configuration: nothing is built or traced.

A check looks up thousands of names in a moment; tracing the networks takes half a minute.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from dreambooth_jax.models.clip_configs import CLIPTextConfig, CLIPTextProjectionConfig
from dreambooth_jax.models.configs import UNetConfig


class Widths(NamedTuple):
    """Channels of a layer; of a norm both are those that it scales."""

    inputs: int
    outputs: int


Layers: TypeAlias = Iterator[tuple[str, Widths]]
"""(path in the network's parameters, widths)."""


def denoiser_widths(config: UNetConfig) -> dict[str, Widths]:
    """Of all layers of a denoiser."""
    return dict(_denoiser(config))


def text_widths(config: CLIPTextConfig) -> dict[str, Widths]:
    """Of all layers of a text encoder."""
    return dict(_text_encoder(config))


def _denoiser(config: UNetConfig) -> Layers:
    channels = config.block_out_channels
    time = 4 * channels[0]
    yield "conv_in", Widths(config.in_channels, channels[0])
    yield from _two_layers("time_embedding", channels[0], time)
    if config.projection_class_embeddings_input_dim is not None:
        yield from _two_layers("add_embedding", config.projection_class_embeddings_input_dim, time)
    yield from _down(config, time)
    yield from _middle(config, time)
    yield from _up(config, time)
    yield "conv_norm_out", Widths(channels[0], channels[0])
    yield "conv_out", Widths(channels[0], config.out_channels)


def _down(config: UNetConfig, time: int) -> Layers:
    width, last = config.block_out_channels[0], len(config.block_out_channels) - 1
    for level, own in enumerate(config.block_out_channels):
        place, depths = f"down_blocks_{level}", config.depths(level)
        for layer, depth in enumerate(depths):
            yield from _resnet(f"{place}/resnets_{layer}", width, own, time)
            width = own
            if config.down_block_types[level].startswith("CrossAttn"):
                yield from _transformer(f"{place}/attentions_{layer}", own, depth, config.cross_attention_dim)
        if level < last:
            yield f"{place}/downsamplers_0/conv", Widths(own, own)


def _middle(config: UNetConfig, time: int) -> Layers:
    width = config.block_out_channels[-1]
    for layer in range(config.middle_layers + 1):
        yield from _resnet(f"mid_block/resnets_{layer}", width, width, time)
    for layer in range(config.middle_layers):
        place = f"mid_block/attentions_{layer}"
        yield from _transformer(place, width, config.middle_depth, config.cross_attention_dim)


def _up(config: UNetConfig, time: int) -> Layers:
    width, skips = config.block_out_channels[-1], list(config.skip_channels)
    for block, own in enumerate(reversed(config.block_out_channels)):
        level = len(config.block_out_channels) - 1 - block
        place = f"up_blocks_{block}"
        for layer, depth in enumerate(config.up_depths(level)):
            yield from _resnet(f"{place}/resnets_{layer}", width + skips.pop(), own, time)
            width = own
            if config.up_block_types[block].startswith("CrossAttn"):
                yield from _transformer(f"{place}/attentions_{layer}", own, depth, config.cross_attention_dim)
        if level:
            yield f"{place}/upsamplers_0/conv", Widths(own, own)


def _resnet(place: str, inputs: int, outputs: int, time: int) -> Layers:
    yield f"{place}/norm1", Widths(inputs, inputs)
    yield f"{place}/conv1", Widths(inputs, outputs)
    yield f"{place}/time_emb_proj", Widths(time, outputs)
    yield f"{place}/norm2", Widths(outputs, outputs)
    yield f"{place}/conv2", Widths(outputs, outputs)
    if inputs != outputs:
        yield f"{place}/conv_shortcut", Widths(inputs, outputs)


def _transformer(place: str, width: int, depth: int, text: int) -> Layers:
    same = Widths(width, width)
    yield from ((f"{place}/{name}", same) for name in ("norm", "proj_in", "proj_out"))
    for block in range(depth):
        inner = f"{place}/transformer_blocks_{block}"
        yield from ((f"{inner}/norm{number}", same) for number in (1, 2, 3))
        for attention, seen in (("attn1", width), ("attn2", text)):
            yield f"{inner}/{attention}/to_q", same
            yield from ((f"{inner}/{attention}/to_{name}", Widths(seen, width)) for name in "kv")
            yield f"{inner}/{attention}/to_out_0", same
        yield f"{inner}/ff/net_0/proj", Widths(width, 8 * width)  # values and gates
        yield f"{inner}/ff/net_2", Widths(4 * width, width)


def _text_encoder(config: CLIPTextConfig) -> Layers:
    width = config.hidden_size
    same = Widths(width, width)
    yield "text_model/embeddings/token_embedding", Widths(config.vocab_size, width)
    yield "text_model/embeddings/position_embedding", Widths(config.max_position_embeddings, width)
    for layer in range(config.num_hidden_layers):
        place = f"text_model/encoder/layers_{layer}"
        yield from ((f"{place}/self_attn/{name}_proj", same) for name in ("q", "k", "v", "out"))
        yield from ((f"{place}/layer_norm{number}", same) for number in (1, 2))
        yield f"{place}/mlp/fc1", Widths(width, config.intermediate_size)
        yield f"{place}/mlp/fc2", Widths(config.intermediate_size, width)
    yield "text_model/final_layer_norm", same
    if isinstance(config, CLIPTextProjectionConfig):
        yield "text_projection", Widths(width, config.projection_dim)


def _two_layers(place: str, inputs: int, outputs: int) -> Layers:
    yield f"{place}/linear_1", Widths(inputs, outputs)
    yield f"{place}/linear_2", Widths(outputs, outputs)
