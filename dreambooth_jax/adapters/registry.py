# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The adapter that a run's settings ask for."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.full import full
from dreambooth_jax.adapters.low_rank import lora
from dreambooth_jax.adapters.targets import Layers, choose_layers
from dreambooth_jax.config import Config
from dreambooth_jax.data.tokenizer import Tokenizer

Build: TypeAlias = Callable[[Config, Mapping[str, Tokenizer]], Adapter]
"""(settings, tokenizer of each text encoder) -> what is trained."""


def layers_of(config: Config) -> Layers:
    """Kernels that adapters of kernels change: the text encoder's only if it is ever trained."""
    settings = config.adapter
    return choose_layers(
        unet=settings.targets, text_encoder=settings.text_encoder_targets if config.text_encoder.stop else ()
    )


def _full(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    """The whole UNet, and the text encoder if it is ever trained."""
    del tokenizers
    return full("unet/.*", "text_encoder/.*") if config.text_encoder.stop else full("unet/.*")


def _lora(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    del tokenizers
    settings = config.adapter
    return lora(
        layers_of(config),
        rank=settings.rank,
        alpha=settings.alpha,
        conv_rank=settings.conv_rank,
        conv_alpha=settings.conv_alpha,
        rank_stabilized=settings.rank_stabilized,
    )


ADAPTERS: dict[str, Build] = {"full": _full, "lora": _lora}
"""Kinds of training, by name."""


def make_adapter(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    """What a run trains of the model that has these tokenizers."""
    return ADAPTERS[config.adapter.kind](config, tokenizers)
