# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the verb ``export`` writes, by what it is given.

A file of an adapter, or of new words, becomes one in another form. A run that trained an adapter becomes the adapter's
file where a file is asked for. With ``rank`` anything that was trained or added becomes the plain LoRA that is nearest
to it. All else is a whole model.
"""

import logging
from typing import Literal

from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.export.adapter import save_adapter
from dreambooth_jax.export.model import save_pretrained
from dreambooth_jax.export.nearest import export_nearest
from dreambooth_jax.export.run_metadata import run_metadata
from dreambooth_jax.export.words import beside, bundle_of, files_of, form_of_words, save_words
from dreambooth_jax.options import ExportOptions
from dreambooth_jax.paths import at_home
from dreambooth_jax.runs import RunFolder, open_model, open_run
from dreambooth_jax.weights.adapters import read_adapter, write_adapter
from dreambooth_jax.weights.adapters.dialects import read_key
from dreambooth_jax.weights.adapters.trained import is_of_kernels, modules_of
from dreambooth_jax.weights.adapters.writing import SUFFIX, dialect_for_most
from dreambooth_jax.weights.embeddings import is_embedding, read_embeddings, write_embedding
from dreambooth_jax.weights.single_file import is_single_file, read_single

log = logging.getLogger(__name__)

_HASHES = ("sshs_", "modelspec.hash_sha256", "lora_adapter_metadata", "format")
"""Beginnings of metadata that are made anew."""
_OF_RANK = ("base", "conv_rank", "clamp_quantile", "min_diff")


def export(options: ExportOptions) -> None:
    """Write what was asked for.

    Raises:
        InputError: if it cannot be written in that form, or not at all.
    """
    for name in _OF_RANK:
        if options.rank is None and getattr(options, name) != getattr(ExportOptions, name):
            raise InputError(f"{name} = {getattr(options, name)} has no use without rank, such as rank=16")
    if is_adapter(options.source):
        _convert(options)
    elif is_embedding(options.source):
        _convert_words(options)
    elif options.rank is not None:
        export_nearest(options, format=_dialect(options) or "auto")
    elif not _run_adapter(options):
        if options.format in ("kohya", "peft"):
            raise InputError(
                f"format = {options.format} is for adapters, {options.source} holds whole networks: with rank=16 the "
                "LoRA that is nearest to what was trained is written"
            )
        whole: Literal["safetensors", "flax", "ldm"] = "safetensors"
        if options.format == "flax" or options.format == "ldm":
            whole = options.format
        model = open_model(**options.told())
        save_pretrained(options.out, model.pipe, model.params, format=whole, dtype=options.dtype)


def is_adapter(source: str) -> bool:
    """Whether it is a file of an adapter, by its names.

    Raises:
        InputError: if it is a broken file.
    """
    file = at_home(source)
    return file.is_file() and is_single_file(file) and any(read_key(name) is not None for name in read_single(file)[0])


def _convert(options: ExportOptions) -> None:
    """From one form to another."""
    if options.rank is not None or options.lora:
        raise InputError(
            f"{options.source} is an adapter: for the plain LoRA that is nearest, export the model that it is for with "
            f"lora={options.source} and rank={options.rank or 16}"
        )
    adapter = read_adapter(options.source)
    if adapter.embeddings and not options.bundle:
        names = ", ".join(adapter.embeddings)
        log.warning("%s holds words besides, which are left out: %s; bundle=true keeps them", adapter.file, names)
    said = {name: text for name, text in adapter.metadata.items() if not name.startswith(_HASHES)}
    write_adapter(
        options.out,
        adapter.networks,
        dialect=_dialect(options) or dialect_for_most(adapter.networks),
        dtype=options.dtype,
        metadata=said,
        words=adapter.embeddings if options.bundle else None,
    )


def _convert_words(options: ExportOptions) -> None:
    """From one form to another, a file for each word."""
    found = read_embeddings(options.source)
    for one, file in zip(found, files_of(at_home(options.out), [one.word for one in found])):
        write_embedding(file, one.word, one.parts, form=form_of_words(options.format))


def _run_adapter(options: ExportOptions) -> bool:
    """Write what a run trained as a file, if it is an adapter and that is what is asked for."""
    folder = RunFolder(at_home(options.source))
    is_file = options.format in ("kohya", "peft") or (options.format == "auto" and options.out.endswith(SUFFIX))
    if not folder.is_run() or not is_file or options.lora:
        return False
    config = load_config(folder.config)
    run = open_run(folder, config, step=options.step, ema=options.ema)
    modules = modules_of(run.frozen, run.trainable) if is_of_kernels(run.frozen, run.trainable) else {}
    taught = run.taught
    if not modules and not taught.tokenizer.added:
        return False
    said = run_metadata(config, step=run.step)
    if modules:
        save_adapter(
            options.out,
            run.pipe,
            modules,
            format=_dialect(options) or "auto",
            dtype=options.dtype,
            metadata=said,
            words=bundle_of(taught, taught.params) if options.bundle else None,
        )
    if not (modules and options.bundle):
        place = beside(options.out) if modules else at_home(options.out)
        for file in save_words(place, taught, taught.params, form=form_of_words(options.format), metadata=said):
            log.info("a new word of the run is in %s", file)
    return True


def _dialect(options: ExportOptions) -> Literal["kohya", "peft"] | None:
    """The form that is asked for.

    Raises:
        InputError: if it is one of whole models.
    """
    if options.format == "kohya" or options.format == "peft":
        return options.format
    if options.format == "auto":
        return None
    raise InputError(f"format = {options.format} is for whole models, this is an adapter: choose kohya or peft")
