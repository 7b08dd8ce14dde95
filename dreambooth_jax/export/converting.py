# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters and of new words, from one form to another. What they say of themselves is kept."""

import logging
from collections.abc import Mapping
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.export.words import files_of, form_of_words
from dreambooth_jax.options import ExportOptions
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.adapters import read_adapter, write_adapter
from dreambooth_jax.weights.adapters.metadata import network_metadata
from dreambooth_jax.weights.adapters.writing import Dialect, dialect_for_most
from dreambooth_jax.weights.checking import check_file
from dreambooth_jax.weights.checking.made_for import texts_of_base
from dreambooth_jax.weights.embeddings import read_embeddings, write_embedding
from dreambooth_jax.weights.modelspec import PREFIX
from dreambooth_jax.weights.single_file import read_single

log = logging.getLogger(__name__)

_HASHES = ("sshs_", "modelspec.hash_sha256", "lora_adapter_metadata", "format")
"""Beginnings of metadata that are made anew."""
_OF_MODELS = ("step", "ema", "revision", "variant", "vae", "unet", "tokenizer", "prediction_type")
_NOT_OF_WORDS = (*_OF_MODELS, "lora", "rank", "bundle", "dtype")
_FORMS_OF_WORDS = ("auto", "kohya", "peft")


def convert_adapter(options: ExportOptions, dialect: Dialect | None) -> None:
    """Write an adapter's file in a dialect; by default in the one that most tools read.

    Raises:
        InputError: for options that mean nothing here, or as ``read_adapter`` and ``write_adapter``.
    """
    if options.rank is not None or options.lora:
        raise InputError(
            f"{options.source} is an adapter: for the plain LoRA that is nearest, export the model that it is for with "
            f"lora={options.source} and rank={options.rank or 16}"
        )
    _refuse(options, _OF_MODELS, what="an adapter")
    adapter = read_adapter(options.source)
    if adapter.embeddings and not options.bundle:
        names = ", ".join(adapter.embeddings)
        log.warning("%s holds words besides, which are left out: %s; bundle=true keeps them", adapter.file, names)
    base = check_file(options.source).base
    told = texts_of_base(base, part="lora", title=Path(options.out).stem) | network_metadata(adapter.networks)
    write_adapter(
        options.out,
        adapter.networks,
        dialect=dialect or dialect_for_most(adapter.networks),
        dtype=options.dtype,
        metadata=_said(adapter.metadata, beside=told),
        words=adapter.embeddings if options.bundle else None,
    )


def convert_words(options: ExportOptions) -> None:
    """Write a file for each word of a file.

    Raises:
        InputError: for options that mean nothing here, or as ``read_embeddings`` and ``write_embedding``.
    """
    _refuse(options, _NOT_OF_WORDS, what="a file of new words")
    if options.format not in _FORMS_OF_WORDS:
        raise InputError(
            f"format = {options.format} is for whole models, {options.source} holds new words: leave it out"
        )
    found, base = read_embeddings(options.source), check_file(options.source).base
    said = read_single(at_home(options.source))[1]
    for one, file in zip(found, files_of(at_home(options.out), [one.word for one in found])):
        told = texts_of_base(base, part="textual-inversion", title=one.word) | {f"{PREFIX}trigger_phrase": one.word}
        texts = _said(said, beside=told)
        write_embedding(file, one.word, one.parts, form=form_of_words(options.format), metadata=texts)


def _said(metadata: Mapping[str, str], *, beside: Mapping[str, str]) -> dict[str, str]:
    """What a file says of itself, in its order, and then what else can be told of it."""
    said = {name: text for name, text in metadata.items() if not name.startswith(_HASHES)}
    return said | {name: text for name, text in beside.items() if name not in said}


def _refuse(options: ExportOptions, names: tuple[str, ...], *, what: str) -> None:
    """Raise InputError for the first of these options that was told."""
    for name in names:
        value = getattr(options, name)
        if value != getattr(ExportOptions, name):
            told = " ".join(value) if isinstance(value, tuple) else value
            raise InputError(f"{name} = {told} means nothing for {options.source}, which is {what}: leave it out")
