# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of what a run keeps: checkpoints, and the model at its end."""

from dataclasses import dataclass
from typing import Literal

from dreambooth_jax.config.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Settings):
    """What is kept to resume from."""

    every: int = setting(200, at_least=1)
    """Steps between two checkpoints; the last step always has one."""
    keep_last: int = setting(1, at_least=1)
    """How many of the newest are kept."""
    keep_best: bool | str = setting(False, nonempty=True)
    """Also keep the best one by val_loss (true is the same), by a score of evaluate.every such as dino, or by a product
    such as dino*clip_t; sample and export take it with step=best."""
    keep_every: int | None = setting(None, at_least=1)
    """Checkpoints at multiples of this many steps are kept for good."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """What is written at the end."""

    format: Literal["auto", "safetensors", "flax", "kohya", "peft"] = "auto"
    """A file of the adapter, as A1111, ComfyUI and diffusers read it (kohya) or as PEFT does (peft); or a folder of the
    whole model, for PyTorch diffusers (safetensors) or legacy Flax (flax). auto is kohya, or safetensors."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Dtype of the exported weights."""
    bundle: bool = False
    """Put new words into the adapter's file, too, as A1111, ComfyUI and OneTrainer read them; diffusers refuses it."""
    weights: Literal["last", "best"] = "last"
    """Of the last step, or of the best one by checkpoint.keep_best."""
