# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What ``sample`` and ``export`` can be told. The string after a field is its help text on the command line."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What to draw, and with which model."""

    source: str
    """Run folder, model folder or hub id."""
    prompts: tuple[str, ...] = ()
    """What to draw: the words after SOURCE, each in quotes."""
    prompts_file: str | None = None
    """Text file with a prompt on each line."""
    out: str | None = None
    """Folder for the pictures and grid.png; by default samples/ in the run folder, or ./samples."""
    num_images: int = 4
    """Pictures per prompt; number i has seed + i."""
    seed: int = 0
    """Seed of the first picture of each prompt."""
    steps: int = 50
    """Sampling steps."""
    guidance_scale: float = 7.5
    """1 is no guidance."""
    negative_prompt: str = ""
    """What not to draw."""
    sampler: Literal["ddim", "ddpm", "euler"] = "ddim"
    """The sampler."""
    eta: float = 0.0
    """Of ddim: 0 is deterministic, 1 adds as much noise as ancestral sampling."""
    height: int | None = None
    """Pixels, a multiple of 8; by default what the model was made for or the run trained."""
    width: int | None = None
    """Likewise."""
    step: int | None = None
    """Checkpoint of a run folder; the newest by default."""
    ema: bool | None = None
    """The moving average or the last weights; by default the average, if the run kept one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write, and as what."""

    source: str
    """Run folder, model folder or hub id."""
    out: str
    """The diffusers folder to write."""
    step: int | None = None
    """Checkpoint of a run folder; the newest by default."""
    ema: bool | None = None
    """The moving average or the last weights; by default the average, if the run kept one."""
    format: Literal["safetensors", "flax"] = "safetensors"
    """Weight files: safetensors (PyTorch diffusers, ComfyUI) or legacy Flax msgpack."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Dtype of the weights."""
