# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The adapter that a run's settings ask for."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.full import full_leaves
from dreambooth_jax.adapters.join import join
from dreambooth_jax.adapters.kernel_kinds import KINDS
from dreambooth_jax.adapters.new_words import beginnings_of, words_of
from dreambooth_jax.adapters.targets import Layers, choose_layers, choose_leaves
from dreambooth_jax.adapters.textual_inversion import textual_inversion
from dreambooth_jax.config import Config
from dreambooth_jax.data.tokenizer import Tokenizer

Build: TypeAlias = Callable[[Config, Mapping[str, Tokenizer]], Adapter]
"""(settings, tokenizer of each text encoder) -> what is trained."""


def _targets(config: Config) -> dict[str, tuple[str, ...]]:
    """Of both kinds of networks; none of the text encoder if it is never trained."""
    text_encoder = config.adapter.targets_of("text_encoder") if config.text_encoder.stop else ()
    return {"unet": config.adapter.targets_of("unet"), "text_encoder": text_encoder}


def layers_of(config: Config) -> Layers:
    """Kernels that adapters of kernels change: the text encoder's only if it is ever trained."""
    return choose_layers(**_targets(config))


def _full(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    """The UNet, and the text encoder if it is ever trained, or those of their layers that are chosen."""
    del tokenizers
    return full_leaves(choose_leaves(**_targets(config)))


def _of_kernels(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    del tokenizers
    return KINDS[config.adapter.kind](config.adapter, layers_of(config))


def _textual_inversion(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    return textual_inversion(words_of(config), beginnings_of(config, tokenizers), norm=config.tokens.norm)


def _with_words(kind: str) -> Build:
    """New words, and an adapter of kernels."""

    def build(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
        return join(KINDS[kind](config.adapter, layers_of(config)), _textual_inversion(config, tokenizers))

    return build


ADAPTERS: dict[str, Build] = {
    "full": _full,
    "textual_inversion": _textual_inversion,
    "pivotal": _with_words("lora"),
    "custom_diffusion_words": _with_words("custom_diffusion"),
    **dict.fromkeys(KINDS, _of_kernels),
}
"""Kinds of training, by name."""


def make_adapter(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    """What a run trains of the model that has these tokenizers."""
    return ADAPTERS[config.adapter.kind](config, tokenizers)
