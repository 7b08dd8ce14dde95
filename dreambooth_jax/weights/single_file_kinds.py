# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a file is that holds no whole model that we know, by what its names tell."""

from collections.abc import Collection, Mapping
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.layouts import LAYOUTS, UNET_PREFIX, VAE_PREFIX, takes_sizes

_TEXT_WIDTHS = {2048: "a Stable Diffusion XL"}
"""Of the text that cross-attention sees -> the model that it is for, where it is told by that."""
_SCHEDULES = ("edm_mean", "edm_vpred.sigma_max")
"""Marks of models whose noise is not that of Stable Diffusion: Playground 2.5, CosXL."""
_HINTS: Mapping[tuple[str, ...], str | None] = {
    ("encoder.", VAE_PREFIX): "an autoencoder alone, which goes with vae=",
    ("lora_te1_", "lora_te2_", "text_encoder_2."): "an adapter for a Stable Diffusion XL (LoRA)",
    ("lora_unet_", "lora_te", "unet.", "text_encoder."): None,
    ("down_blocks.", "mid_block."): "a denoiser alone, which goes with unet=",
    ("control_model.", "controlnet_"): "a ControlNet",
    (UNET_PREFIX, "double_blocks.", "joint_blocks."): "a model of another kind",
}
"""Beginnings of names, one of which a file has -> what it is, None for an adapter; in the order of trying."""


def not_whole(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> InputError:
    """The error for a file that has none of our layouts.

    Args:
        file: where it is.
        shapes: of its arrays, by name.
    """
    if any(name.startswith(f"{UNET_PREFIX}input_blocks.") for name in shapes):
        return _of_denoiser(file, shapes)
    known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    for starts, what in _HINTS.items():
        if any(name.startswith(starts) for name in shapes):
            return InputError(f"{file} holds no whole model ({known}): it is {what or _adapter(shapes)}")
    some = ", ".join(sorted(shapes)[:3])
    return InputError(f"{file} holds no model ({known}): its arrays are called {some or 'nothing'}")


def check_noise(file: Path, names: Collection[str]) -> None:
    """Raise InputError for a model that is laid out as one of ours and learnt another kind of noise."""
    for mark in _SCHEDULES:
        if mark in names:
            raise InputError(f"{file} was trained on EDM's noise (it has {mark}), which is not supported: take another")


def _of_denoiser(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> InputError:
    """Of one with a denoiser of the original code, but not all that belongs to it, or something else besides."""
    told = takes_sizes(shapes)
    nearest = min(LAYOUTS, key=lambda layout: (len(layout.lacking(shapes)), layout.takes_sizes != told))
    if lacking := nearest.lacking(shapes):
        return InputError(f"{file} has no {' and no '.join(lacking)}: take a file with the whole model")
    return InputError(f"{file} is another kind of Stable Diffusion, which is not supported: take a base model")


def _adapter(shapes: Mapping[str, tuple[int, ...]]) -> str:
    widths = {width for name, shape in shapes.items() if "attn2" in name for width in shape}
    model = next((model for width, model in _TEXT_WIDTHS.items() if width in widths), "a model")
    return f"an adapter for {model} (LoRA)"
