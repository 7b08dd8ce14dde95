# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The adapter that a run's settings ask for."""

from collections.abc import Callable

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.full import full
from dreambooth_jax.config import Config


def _full(config: Config) -> Adapter:
    """The whole UNet, and the text encoder if it is ever trained."""
    return full("unet/.*", "text_encoder/.*") if config.text_encoder.stop else full("unet/.*")


ADAPTERS: dict[str, Callable[[Config], Adapter]] = {"full": _full}
"""Kinds of training, by name."""


def make_adapter(config: Config) -> Adapter:
    """What a run trains."""
    return ADAPTERS["full"](config)
