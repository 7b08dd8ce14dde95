# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Names of the same layer in files of adapters and here.

    ours            down_blocks_0/attentions_1/transformer_blocks_0/attn2/to_out_0
    dotted (PEFT)   down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0
    kohya           down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_out_0
    sgm             input_blocks_2_1_transformer_blocks_0_attn2_to_out_0            as the original code counts blocks

Of the two with underscores ours is found without a model: the words that names are made of are few. Files of Stable
Diffusion 1 and 2 have either, those of XL mostly the last.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from dreambooth_jax.models.configs import UNetConfig
from dreambooth_jax.weights import names
from dreambooth_jax.weights.ldm import unet_place

# Longer words stand before those that they begin with.
_WORDS = (
    *(r"down_blocks_\d+", r"up_blocks_\d+", "mid_block", r"attentions_\d+", r"resnets_\d+"),
    *(r"downsamplers_\d+", r"upsamplers_\d+", r"transformer_blocks_\d+", "attn1", "attn2"),
    *("to_q", "to_k", "to_v", "to_out_0", "ff", r"net_\d+", "proj_in", "proj_out", "proj"),
    *("conv_shortcut", "conv_norm_out", "conv_in", "conv_out", "conv1", "conv2", "conv"),
    *("time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2", "norm1", "norm2", "norm3", "norm"),
    *("text_model", "encoder", r"layers_\d+", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    *("mlp", "fc1", "fc2", "layer_norm1", "layer_norm2", "final_layer_norm", "text_projection"),
    *("embeddings", "token_embedding", "position_embedding"),
)
_WORD = re.compile(f"({'|'.join(_WORDS)})(?:_|$)")

Layers: TypeAlias = tuple[int, ...]
"""How many layers each block of a denoiser has on the way down."""
USUAL: Layers = (2,) * 8
"""Of all Stable Diffusions; the original code's numbers do not tell it."""
_SGM_RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
_SGM_HEADS = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding/linear_1",
    "time_embed_2": "time_embedding/linear_2",
    "label_emb_0_0": "add_embedding/linear_1",
    "label_emb_0_2": "add_embedding/linear_2",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
}
_SGM_MIDDLE = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}


def kohya_name(path: str) -> str:
    """Ours -> kohya's.

    >>> kohya_name("mid_block/attentions_0/proj_in")
    'mid_block_attentions_0_proj_in'
    """
    return path.replace("/", "_")


def original_name(unet: UNetConfig, path: str) -> str:
    """Ours -> that of a denoiser's layer where blocks are counted as the original code does.

    >>> original_name(UNetConfig(), "up_blocks_1/upsamplers_0/conv")
    'output_blocks_5_2_conv'
    """
    key = unet_place(unet, names.torch_name(f"{path}/kernel")).key
    return key.removesuffix(".weight").replace(".", "_")


def layers_of(unet: Mapping[str, Any]) -> Layers:
    """Of a denoiser's parameters; the usual ones where they are none."""
    blocks = sorted((name for name in unet if name.startswith("down_blocks_")), key=lambda name: int(name[12:]))
    return tuple(sum(name.startswith("resnets_") for name in unet[block]) for block in blocks) or USUAL


def from_kohya(name: str, layers: Layers = USUAL) -> str | None:
    """Kohya's or sgm's -> ours; None for what is no name of a layer, or of none with so many layers before it.

    Args:
        name: of a layer.
        layers: of the denoiser that it is for; sgm's counts them.

    >>> from_kohya("input_blocks_3_1_proj_in"), from_kohya("input_blocks_3_1_proj_in", layers=(1, 1))
    (None, 'down_blocks_1/attentions_0/proj_in')
    >>> from_kohya("up_blocks_1_upsamplers_0_conv"), from_kohya("output_blocks_5_2_conv")
    ('up_blocks_1/upsamplers_0/conv', 'up_blocks_1/upsamplers_0/conv')
    >>> from_kohya("output_blocks_3_2_conv", layers=(1, 1))
    'up_blocks_1/upsamplers_0/conv'
    """
    return _of_words(name) or _SGM_HEADS.get(name) or _from_sgm(name, layers)


def _of_words(name: str) -> str | None:
    words = []
    while name:
        match = _WORD.match(name)
        if match is None:
            return None
        words.append(match[1])
        name = name[match.end() :]
    return "/".join(words) or None


def _from_sgm(name: str, layers: Layers) -> str | None:
    match = re.fullmatch(r"(input_blocks|output_blocks)_(\d+)_(\d)_(.+)|(middle_block)_(\d)_(.+)", name)
    if match is None:
        return None
    if match[5]:
        place, rest = f"mid_block/{_SGM_MIDDLE.get(match[6])}", match[7]
        kind = _SGM_MIDDLE.get(match[6], "")
    else:
        is_down, number, inner, rest = match[1] == "input_blocks", int(match[2]), int(match[3]), match[4]
        # on the way down a change of size is a piece of its own, on the way up the last part of a piece
        own = layers if is_down else layers[::-1]
        counted = _counted(number - is_down, own)
        if counted is None or not _has(counted[1], own[counted[0]], rest, is_down=is_down):
            return None
        kind = _sgm_kind(rest, inner, counted[1])
        place = f"{'down' if is_down else 'up'}_blocks_{counted[0]}/{kind}"
    inside = _SGM_RESNET.get(rest) if kind.startswith("resnets") else _of_words("conv" if rest == "op" else rest)
    return f"{place}/{inside}" if kind and inside else None


def _counted(number: int, layers: Layers) -> tuple[int, int] | None:
    """(block, which of its pieces) of a piece; each block has one more than layers. None beyond the last."""
    for block, count in enumerate(layers):
        if 0 <= number <= count:
            return block, number
        number -= count + 1
    return None


def _has(piece: int, layers: int, rest: str, *, is_down: bool) -> bool:
    """Whether a block of so many layers can have such a name there. Denoisers with other layers count differently."""
    is_last = piece == layers
    return is_last == (rest == "op") if is_down else is_last or rest != "conv"


def _sgm_kind(rest: str, inner: int, layer: int) -> str:
    if rest == "op":
        return "downsamplers_0"
    if rest == "conv":
        return "upsamplers_0"
    return f"{'resnets' if inner == 0 else 'attentions'}_{layer}"


def dotted_name(path: str) -> str:
    """Ours -> PyTorch's.

    >>> dotted_name("down_blocks_0/attentions_1/transformer_blocks_0/attn2/to_out_0")
    'down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0'
    """
    return names.torch_name(f"{path}/weight").removesuffix(".weight")


def from_dotted(name: str) -> str:
    """The inverse of :func:`dotted_name`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"_\1", name).replace(".", "/")
