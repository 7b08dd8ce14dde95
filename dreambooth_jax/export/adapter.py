# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""An adapter as a file, with all that tools show of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from jax.typing import DTypeLike

from dreambooth_jax.export.words import beside, bundle_of, log_words, save_words
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters import Module, write_adapter
from dreambooth_jax.weights.adapters.dialects import kohya_modules
from dreambooth_jax.weights.adapters.metadata import base_metadata, network_metadata
from dreambooth_jax.weights.adapters.writing import dialect_for_most
from dreambooth_jax.weights.embeddings import Form
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.modelspec import modelspec


def save_adapter(
    path: str | Path,
    pipe: Pipeline,
    networks: Mapping[str, Mapping[str, Module]],
    *,
    format: Literal["auto", "kohya", "peft"] = "auto",
    dtype: DTypeLike = "float32",
    metadata: Mapping[str, str] | None = None,
    words: Mapping[str, Leaf] | None = None,
) -> str:
    """Write an adapter as one file.

    Args:
        path: of the file, which ends in .safetensors.
        pipe: the model that it is for.
        networks: network -> path of a layer -> what becomes of it.
        format: how tensors are named: as sd-scripts do, which most tools read, or as PEFT does; "auto" is the first
            where it has a form for all of it.
        dtype: float32, float16 or bfloat16.
        metadata: what else it says of itself, such as of the run: texts whose names begin with ss_ or modelspec.
        words: new words to put into the file, as :func:`~dreambooth_jax.export.words.bundle_of` gives them.

    Returns:
        The format that was taken.

    Raises:
        InputError: as ``write_adapter``.
    """
    dialect = dialect_for_most(networks) if format == "auto" else format
    components = pipe.components
    model, family = (components.configs, components.scheduler_config), components.family
    texts = {
        **base_metadata(*model, family=family),
        **network_metadata(networks),
        **modelspec(Path(path).stem, *model, family=family, part="lora"),
        **(metadata or {}),
    }
    modules = kohya_modules(family.naming, pipe.unet.config)
    write_adapter(path, networks, dialect=dialect, dtype=dtype, metadata=texts, words=words, modules=modules)
    return dialect


def save_with_words(
    path: str | Path,
    pipe: Pipeline,
    networks: Mapping[str, Mapping[str, Module]],
    *,
    words: tuple[Pipeline, Tree],
    bundle: bool,
    form: Form,
    format: Literal["auto", "kohya", "peft"],
    dtype: DTypeLike,
    metadata: Mapping[str, str],
    of_words: Mapping[str, str],
) -> None:
    """Write an adapter, and the new words that come with it: into the same file, or beside it.

    Args:
        path, pipe, networks, format, dtype, metadata: as for :func:`save_adapter`.
        words: the pipeline whose prompts may have them, and its parameters.
        bundle: whether they go into the same file.
        form: of files beside it.
        of_words: what these say of themselves besides.

    Raises:
        InputError: as ``save_adapter`` and ``save_words``.
    """
    inside = bundle_of(*words) if bundle else None
    save_adapter(path, pipe, networks, format=format, dtype=dtype, metadata=metadata, words=inside)
    if not bundle:
        log_words(save_words(beside(path), *words, form=form, metadata=of_words))
