# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The adapter that a run's settings ask for."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.full import full
from dreambooth_jax.config import Config
from dreambooth_jax.data.tokenizer import Tokenizer

Build: TypeAlias = Callable[[Config, Mapping[str, Tokenizer]], Adapter]
"""(settings, tokenizer of each text encoder) -> what is trained."""


def _full(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    """The whole UNet, and the text encoder if it is ever trained."""
    del tokenizers
    return full("unet/.*", "text_encoder/.*") if config.text_encoder.stop else full("unet/.*")


ADAPTERS: dict[str, Build] = {"full": _full}
"""Kinds of training, by name."""


def make_adapter(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    """What a run trains of the model that has these tokenizers."""
    return ADAPTERS["full"](config, tokenizers)
