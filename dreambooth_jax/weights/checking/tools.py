# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What A1111, Forge, ComfyUI and diffusers make of an adapter's file: rules about names and methods, one table a tool.

They are those of A1111 1.10, Forge of 2025, ComfyUI of 2026 and diffusers 0.42. A tool has a name for each layer that
it looks for; what is called otherwise is left out, in most of them without an error.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.weights.checking.judging import INCOMPLETE, RANKS, WIDTHS
from dreambooth_jax.weights.checking.layers import UNKNOWN, Layer, dora_axis_of
from dreambooth_jax.weights.checking.report import OURS, ToolReport

_TEXT_LAYER = re.compile(r"text_model/encoder/layers_\d+/(self_attn/[qkv]_proj|self_attn/out_proj|mlp/fc[12])")
_SGM = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks|out_|time_embed_|label_emb)")
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_COMFY = ("lora", "dora", "loha", "loha with dora", "lokr", "lokr with dora", "glora", "diff", "norm")
_OUTPUT_AXIS = "draws DoRA otherwise: its magnitudes are along the output"

_FORGE_FORGIVES = 12

Rule = Callable[[Layer], str | None]
"""Why a tool leaves a layer out; None where it does not."""


class Tool(NamedTuple):
    """A tool that loads adapters.

    Attributes:
        name: its name.
        leaves_out: why it leaves a layer out.
        takes_otherwise: what it makes of a layer that it loads, where that is not what is meant.
        refuses: why it loads nothing of the file at all, by its names.
    """

    name: str
    leaves_out: Rule
    takes_otherwise: Rule
    refuses: Callable[[list[Layer], Mapping[str, object]], str | None] = lambda layers, others: None


def tool_reports(
    layers: list[Layer], others: Mapping[str, object], *, counted: bool, refusal: str | None
) -> tuple[ToolReport, ...]:
    """What each tool makes of a file.

    Args:
        layers: what the file holds.
        others: arrays that belong to none of them, by name.
        counted: whether it is for a model whose blocks diffusers knows by the original code's numbers.
        refusal: why our own reader refuses it.
    """
    us = Tool(OURS, _ours, _nothing, lambda layers, others: refusal)
    return tuple(_report(tool, layers, others) for tool in (*_TOOLS, _diffusers(counted), us))


def _report(tool: Tool, layers: list[Layer], others: Mapping[str, object]) -> ToolReport:
    refused = tool.refuses(layers, others)
    if refused:
        return ToolReport(tool=tool.name, loads="nothing", notes=(refused,))
    left_out = {id(layer): why for layer in layers if (why := tool.leaves_out(layer) or layer.unusable)}
    loaded = [layer for layer in layers if id(layer) not in left_out]
    otherwise = Counter(why for layer in loaded if (why := layer.spoilt or tool.takes_otherwise(layer)))
    notes = [f"leaves out {count} layers: {why}" for why, count in Counter(left_out.values()).most_common()]
    notes += [f"{why} ({count} layers)" for why, count in otherwise.most_common()]
    many = f"{len(loaded)} of {len(layers)} layers"
    loads = "nothing" if not loaded else f"all {len(layers)} layers" if len(loaded) == len(layers) else many
    return ToolReport(tool=tool.name, loads=loads, notes=tuple(notes))


def _nothing(layer: Layer) -> None:
    del layer


def _has_prefix(layer: Layer, prefixes: tuple[str, ...]) -> bool:
    return layer.names[0].startswith(prefixes)


def _a1111(layer: Layer) -> str | None:
    if not _has_prefix(layer, (*_KOHYA, "oft_unet_")):
        return "it knows sd-scripts' names alone (lora_unet_...)"
    return _lacks(layer, (*_COMFY, "ia3", "oft", "oft_diag", "boft"))


def _lacks(layer: Layer, methods: tuple[str, ...]) -> str | None:
    if layer.module.method not in (*methods, UNKNOWN):
        return f"it has no {layer.module.method}"
    return None


def _comfy(methods: tuple[str, ...], prefixes: tuple[str, ...]) -> Rule:
    def leaves_out(layer: Layer) -> str | None:
        if lacks := _lacks(layer, methods):
            return lacks
        if layer.dialect == "kohya" and not _has_prefix(layer, prefixes):
            return f"it does not know names that begin with {layer.names[0].partition('_')[0]}_"
        if layer.network != "unet" and not _TEXT_LAYER.fullmatch(layer.path):
            return "of the text encoder it knows attention and MLP alone"
        if layer.dialect == "kohya":
            return None
        if layer.network == "unet" and "/to_" in layer.path and layer.dialect != "processor":
            return "it calls attention of diffusers' files ...processor.to_q"
        if layer.network != "unet" and ".text_model." not in layer.names[0]:
            return "it looks for text_encoder.text_model. ..."
        return None

    return leaves_out


def _forge_refuses(layers: list[Layer], others: Mapping[str, object]) -> str | None:
    """It leaves a file alone of which it does not know more than a dozen names."""
    leaves_out = _comfy(_COMFY, _KOHYA)
    unknown = len(others) + sum(
        len(layer.names)
        if leaves_out(layer) or layer.unusable not in (None, RANKS, WIDTHS)
        else sum("magnitude" in name for name in layer.names)
        for layer in layers
    )
    if unknown <= _FORGE_FORGIVES:
        return None
    return f"refuses the file, of which it does not know {unknown} names: more than {_FORGE_FORGIVES}"


def _comfy_otherwise(layer: Layer) -> str | None:
    if layer.dialect != "kohya" and layer.module.method == "dora":
        return "draws DoRA without its magnitudes, as a plain LoRA"
    if layer.scaled_by_metadata:
        return "draws it with another strength: it does not read alpha in the metadata"
    return _OUTPUT_AXIS if dora_axis_of(layer) == "output" else None


def _a1111_otherwise(layer: Layer) -> str | None:
    return _OUTPUT_AXIS if dora_axis_of(layer) == "output" else None


def _diffusers(counted: bool) -> Tool:
    def refuses(layers: list[Layer], others: Mapping[str, object]) -> str | None:
        names = [name for layer in layers for name in layer.names]
        if not all(name.startswith(_KOHYA) for name in (*names, *others)):
            strange = next((name for name in (*names, *others) if "lora" not in name), None)
            if strange or any(name.startswith(_KOHYA) for name in names):
                return f"refuses the file, since not all names are of one form: {strange or names[0]}"
            return None
        foreign = {layer.module.method for layer in layers} - {"lora", "dora", UNKNOWN}
        if foreign:
            return f"refuses the file, since it has no {', '.join(sorted(foreign))}"
        if bad := next((layer for layer in layers if layer.unusable in (INCOMPLETE, RANKS, WIDTHS)), None):
            return f"refuses the file: of {bad.network}/{bad.path} {bad.unusable}"
        if any("lora_mid" in layer.module.tensors for layer in layers):
            return "refuses the file, since it has no LoRA with a core (lora_mid)"
        if not counted and any(_SGM.match(name) for name in names):
            return "refuses the file, since of this model it does not know blocks as the original code counts them"
        return None

    def leaves_out(layer: Layer) -> str | None:
        known = layer.names[0].startswith((*_KOHYA, "unet.", "text_encoder.", "text_encoder_2."))
        return None if known else "it looks for names that begin with unet. or text_encoder."

    def otherwise(layer: Layer) -> str | None:
        if layer.dialect == "kohya" and layer.module.method == "dora":
            return "draws DoRA without its magnitudes, as a plain LoRA"
        return None

    return Tool("diffusers", leaves_out, otherwise, refuses)


def _ours(layer: Layer) -> str | None:
    return _lacks(layer, (*METHODS, "diff", "norm"))


_TOOLS = (
    Tool("A1111", _a1111, _a1111_otherwise),
    Tool("Forge", _comfy(_COMFY, _KOHYA), _comfy_otherwise, _forge_refuses),
    Tool("ComfyUI", _comfy((*_COMFY, "oft", "boft"), (*_KOHYA, "lycoris_")), _comfy_otherwise),
)
