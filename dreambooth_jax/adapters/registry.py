# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The adapter that a run's settings ask for."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.full import full_leaves
from dreambooth_jax.adapters.join import join
from dreambooth_jax.adapters.kernel_kinds import KINDS
from dreambooth_jax.adapters.kernels import Tensors
from dreambooth_jax.adapters.new_words import beginnings_of, words_of
from dreambooth_jax.adapters.rank_relaxed import rank_relaxed
from dreambooth_jax.adapters.sparing import sparing
from dreambooth_jax.adapters.targets import Layers, choose_layers, choose_leaves
from dreambooth_jax.adapters.textual_inversion import textual_inversion
from dreambooth_jax.config import Config
from dreambooth_jax.data.tokenizer import Tokenizer
from dreambooth_jax.errors import InputError

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


def _rank_relaxed(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    del tokenizers
    file = config.adapter.begin or ""
    begun = _lidb_of_file(file)
    if not config.text_encoder.stop and any(not layer.startswith("unet/") for layer in begun):
        raise InputError(
            f"adapter.begin = {file} changes the text encoder, which this run does not train: set text_encoder.stop=-1"
        )
    return rank_relaxed(begun, rank=config.adapter.rank)


def _lidb_of_file(path: str) -> Mapping[str, Tensors]:
    """Path of a layer -> tensors."""
    from dreambooth_jax.weights.adapters.reading import read_adapter  # which knows our methods

    found = read_adapter(path).networks
    modules = {f"{network}/{layer}": module for network, layers in found.items() for layer, module in layers.items()}
    other = next((layer for layer, module in modules.items() if module.method != "lidb"), None)
    if other is not None:
        raise InputError(
            f"adapter.begin = {path}: {other} is changed by {modules[other].method}, not by lidb: "
            "give the file of a run with adapter.kind=lidb"
        )
    return {layer: module.tensors for layer, module in modules.items()}


def _textual_inversion(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
    return textual_inversion(words_of(config), beginnings_of(config, tokenizers), norm=config.tokens.norm)


def _with_words(kind: str) -> Build:
    """New words, and an adapter of kernels."""

    def build(config: Config, tokenizers: Mapping[str, Tokenizer]) -> Adapter:
        return join(KINDS[kind](config.adapter, layers_of(config)), _textual_inversion(config, tokenizers))

    return build


ADAPTERS: dict[str, Build] = {
    "full": _full,
    "rank_relaxed": _rank_relaxed,
    "textual_inversion": _textual_inversion,
    "pivotal": _with_words("lora"),
    "custom_diffusion_words": _with_words("custom_diffusion"),
    **dict.fromkeys(KINDS, _of_kernels),
}
"""Kinds of training, by name."""


WITH_MEMBERS = ("lora", "ia3", "lidb", "rank_relaxed", "textual_inversion", "pivotal")
"""Kinds whose members (subjects, cells of a sweep) can be trained by one step, as ``training/members.py`` has it: all
that they train stands beside the layers of shared networks. Members of the others need networks of their own."""


def make_adapter(config: Config, tokenizers: Mapping[str, Tokenizer], unread: Sequence[str] = ()) -> Adapter:
    """What a run trains of a model.

    Args:
        config: of the run.
        tokenizers: of each text encoder.
        unread: patterns of the model's leaves that it has no use for; they stay as they are.
    """
    return sparing(ADAPTERS[config.adapter.kind](config, tokenizers), unread)
