# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which layers an adapter changes: presets of kohya's scripts and OneTrainer, and patterns of names.

A layer is a dense one or a convolution, called by its path, ``unet/mid_block/attentions_0/proj_in``. ``attn-mlp`` is
what kohya calls LierLa, 192 layers of Stable Diffusion 1.5's UNet and 72 of its text encoder; ``attn-mlp-conv`` is
C3Lier, 278 layers of the UNet.
"""

from collections.abc import Callable, Mapping, Sequence

from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import matcher

UNET: dict[str, tuple[str, ...]] = {
    "attn-mlp": (r".*/attentions_\d+/.*",),
    "attn-mlp-conv": (r".*/(attentions|resnets|downsamplers|upsamplers)_\d+/.*",),
    "attn-only": (r".*/attn\d/.*",),
    "cross-attention": (r".*/attn2/.*",),
    "cross-attention-kv": (r".*/attn2/to_[kv]",),
    "ia3": (r".*/attn\d/to_[kv]", r".*/ff/net_2"),
    "full": (".*",),
}
"""Preset -> patterns of layers."""

TEXT_ENCODER: dict[str, tuple[str, ...]] = {
    "attn-mlp": (r".*/(self_attn|mlp)/.*",),
    "attn-only": (r".*/self_attn/.*",),
    "ia3": (r".*/self_attn/[kv]_proj", r".*/mlp/fc2"),
    "full": (".*",),
}
"""Preset -> patterns of layers."""

Layers = Callable[[Sequence[str]], list[str]]
"""Names of all leaves -> the kernels (``unet/mid_block/attentions_0/proj_in/kernel``) that are to be changed."""

Leaves = Callable[[Sequence[str]], list[str]]
"""Names of all leaves -> those that are to be trained: kernels, biases, norms, embeddings."""


def choose_layers(*, unet: Sequence[str], text_encoder: Sequence[str] = ()) -> Layers:
    """Kernels by presets, or by patterns of the whole paths of their layers.

    Args:
        unet: of the denoiser.
        text_encoder: of all text encoders; nothing leaves them as they are.

    Returns:
        A function that raises InputError for a preset or pattern that matches no layer.
    """

    of_layers = choose_leaves(unet=unet, text_encoder=text_encoder)
    return lambda names: of_layers([name for name in names if name.endswith("/kernel")])


def choose_leaves(*, unet: Sequence[str], text_encoder: Sequence[str] = ()) -> Leaves:
    """All leaves of layers by presets, or by patterns of the layers' whole paths; as :func:`choose_layers` otherwise,
    except that norms and embeddings are layers, too."""

    def choose(names: Sequence[str]) -> list[str]:
        layers = list(dict.fromkeys(_layer(name) for name in names))
        of_unet = [layer for layer in layers if layer.startswith("unet/")]
        of_text = [layer for layer in layers if layer.startswith("text_encoder")]
        found = _matched(of_unet, unet, UNET, "adapter.targets")
        found |= _matched(of_text, text_encoder, TEXT_ENCODER, "adapter.text_encoder_targets")
        return [name for name in names if _layer(name) in found]

    return choose


def _layer(name: str) -> str:
    """Path of the layer that has a leaf."""
    return name.rpartition("/")[0]


def _matched(
    layers: Sequence[str], targets: Sequence[str], presets: Mapping[str, tuple[str, ...]], setting: str
) -> set[str]:
    found: set[str] = set()
    for target in targets:
        is_one = matcher(presets.get(target, (target,)))
        matched = {layer for layer in layers if is_one(layer)}
        if not matched:
            example = f"; layers have names such as {layers[0]}" if layers else ""
            raise InputError(f"{setting} has {target!r}, which no layer matches: use {', '.join(presets)}{example}")
        found |= matched
    return found
