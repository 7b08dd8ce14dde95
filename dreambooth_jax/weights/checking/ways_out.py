# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Commands that make of an adapter's file what more tools load, where our own reader takes it."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters import read_adapter
from dreambooth_jax.weights.checking.layers import Layer, dora_axis_of
from dreambooth_jax.weights.checking.report import ToolReport


def refusal_of(file: Path) -> str | None:
    """What our own reader says against a file; None where it takes it."""
    try:
        read_adapter(file)
    except InputError as error:
        return f"refuses the file: {error}"
    return None


def ways_out(file: Path, layers: list[Layer], tools: Sequence[ToolReport], *, has_words: bool) -> Iterator[str]:
    """The commands.

    Args:
        file: that our reader takes.
        layers: of it.
        tools: what they make of it; where none has a note, nothing is to be done.
        has_words: whether new words come with it.
    """
    if not any(tool.notes for tool in tools):
        return
    export, name = "dreambooth-jax export", shlex.quote(str(file))
    is_along_output = any(dora_axis_of(layer) == "output" for layer in layers)
    if any(layer.dialect != "kohya" for layer in layers) and not is_along_output:
        yield f"{export} {name} OUT.safetensors format=kohya"
    elif has_words:
        yield f"{export} {name} OUT.safetensors     (without its words)"
    if any(layer.module.method != "lora" and layer.module.method in METHODS for layer in layers):
        yield f"{export} MODEL OUT.safetensors {shlex.quote(f'lora={file}')} rank=16     (the plain LoRA nearest to it)"
