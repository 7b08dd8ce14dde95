# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A pipeline whose prompts may have new words: its tokenizers know them, and its text encoders have their vectors."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dreambooth_jax.adapters.textual_inversion import added_of, with_added
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.embeddings import Embedding, read_embeddings, vectors_for

M = TypeVar("M", bound=Model)
DIGITS = 12
"""Of a file's hash, as A1111 shows them."""


def with_words(pipe: M, words: Mapping[str, int]) -> M:
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


def with_embeddings(pipe: M, files: Sequence[str | Path] | Mapping[str, str | Path]) -> M:
    """As the method of the pipeline."""
    read = _named(files) if isinstance(files, Mapping) else [one for file in files for one in read_embeddings(file)]
    widths = {encoder: pipe.components.modules[encoder].config.hidden_size for encoder in pipe.tokenizers}
    vectors = [vectors_for(one, widths) for one in read]
    for one in read:
        pipe = with_words(pipe, {one.word: one.vectors})
    whole = NamedSharding(pipe.target.mesh, PartitionSpec())
    params = dict(pipe.params)
    for encoder in widths:
        before = added_of(params[encoder])
        rows = ([] if before is None else [np.asarray(before)]) + [of[encoder] for of in vectors]
        if rows:
            params[encoder] = with_added(params[encoder], jax.device_put(np.concatenate(rows), whole))
    return replace(pipe, params=params, word_files={**pipe.word_files, **{one.word: _hash(one.file) for one in read}})


def _named(files: Mapping[str, str | Path]) -> list[Embedding]:
    """The word of each file, called as it is told."""
    found = []
    for word, file in files.items():
        read = read_embeddings(file)
        if len(read) > 1:
            names = ", ".join(one.word for one in read)
            raise InputError(f"{file} has several words ({names}): they cannot all be called {word!r}; leave it out")
        found.append(read[0]._replace(word=word))
    return found


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:DIGITS]


def words_of(pipe: Model, params: Tree) -> dict[str, dict[str, np.ndarray]]:
    """New words -> text encoder -> vectors [n, d].

    Args:
        pipe: whose tokenizers know them.
        params: with those of its text encoders.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for encoder, tokenizer in pipe.tokenizers.items():
        first = pipe.components.modules[encoder].config.vocab_size
        for word, ids in tokenizer.added.items():
            added = np.asarray(added_of(params[encoder]))
            found.setdefault(word, {})[encoder] = added[ids.start - first : ids.stop - first]
    return found
