# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""New words as files: one for each, because most tools read no more of a file."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.words import words_of
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters.metadata import base_metadata
from dreambooth_jax.weights.embeddings import Form, bundled_leaves, write_embedding
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.modelspec import PREFIX, modelspec

log = logging.getLogger(__name__)

LEARNED = "learned_embeds.safetensors"
"""What diffusers' ``load_textual_inversion`` looks for in the folder of a model."""


def save_words(
    path: str | Path,
    pipe: Pipeline,
    params: Tree,
    *,
    form: Form = "diffusers",
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a file for each new word of a pipeline.

    Args:
        path: of the file; of several words each has its own, with the word behind the name.
        pipe: whose prompts may have the words.
        params: with those of its text encoders.
        form: "diffusers", which all tools read, or "a1111".
        metadata: what they say of themselves besides, such as of the run.

    Returns:
        The files.

    Raises:
        InputError: if one cannot be saved.
    """
    words = words_of(pipe, params)
    components = pipe.components
    model = (components.configs, components.scheduler_config)
    files = files_of(at_home(path), list(words))
    for file, (word, vectors) in zip(files, words.items()):
        texts = {
            **base_metadata(*model, family=components.family),
            **modelspec(word, *model, family=components.family, part="textual-inversion"),
            **(metadata or {}),
            f"{PREFIX}trigger_phrase": word,
        }
        write_embedding(file, word, vectors, form=form, metadata=texts)
    return files


def files_of(path: Path, words: Sequence[str]) -> list[Path]:
    """A file for each word: the path itself for one; else with the word behind its name, or with a number."""
    if len(words) < 2:
        return [path] * len(words)
    names = [re.sub(r"\W+", "_", word).strip("_") for word in words]
    if len({name.casefold() for name in names if name}) < len(words):
        names = [str(number) for number in range(1, len(words) + 1)]
    return [path.with_name(f"{path.stem}-{name}{path.suffix}") for name in names]


def form_of_words(format: str) -> Form:
    """A1111's is the one that kohya's scripts write; diffusers' is read by all tools."""
    return "a1111" if format == "kohya" else "diffusers"


def beside(model: str | Path) -> Path:
    """Where the words of a saved model are: in its folder, or beside its single file."""
    place = at_home(model)
    is_file = place.suffix == ".safetensors"
    return place.with_name(f"{place.stem}-embedding.safetensors") if is_file else place / LEARNED


def bundle_of(pipe: Pipeline, params: Tree) -> dict[str, Leaf]:
    """All new words as arrays in the file of an adapter."""
    return {
        name: leaf
        for word, vectors in words_of(pipe, params).items()
        for name, leaf in bundled_leaves(word, vectors).items()
    }


def log_words(files: Sequence[Path]) -> None:
    """Say where they are."""
    for file in files:
        log.info("a new word is in %s", file)
