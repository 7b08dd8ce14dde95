# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A pipeline whose prompts may have new words: its tokenizers know them, and its text encoders have room for them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreambooth_jax.pipeline.pipeline import Pipeline


def with_words(pipe: "Pipeline", words: Mapping[str, int]) -> "Pipeline":
    """As the method of the pipeline."""
    modules, tokenizers = dict(pipe.components.modules), dict(pipe.tokenizers)
    for encoder, tokenizer in pipe.tokenizers.items():
        module = modules[encoder]
        first = module.config.vocab_size + module.added_tokens
        tokenizers[encoder] = tokenizer.with_words(_ids(words, first))
        modules[encoder] = module.clone(added_tokens=module.added_tokens + sum(words.values()))
    return replace(pipe, components=replace(pipe.components, modules=modules), tokenizers=tokenizers)


def _ids(words: Mapping[str, int], first: int) -> dict[str, range]:
    ids = {}
    for word, vectors in words.items():
        ids[word] = range(first, first + vectors)
        first += vectors
    return ids
