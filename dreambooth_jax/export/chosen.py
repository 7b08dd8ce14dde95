# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the verb ``export`` writes, by what it is given.

A file of an adapter, or of new words, becomes one in another form. A run that trained an adapter becomes the adapter's
file where a file is asked for. With ``rank`` anything that was trained or added becomes the plain LoRA that is nearest
to it. All else is a whole model.
"""

from typing import Literal

from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.export.adapter import save_with_words
from dreambooth_jax.export.converting import convert_adapter, convert_words
from dreambooth_jax.export.model import save_pretrained
from dreambooth_jax.export.nearest import export_nearest
from dreambooth_jax.export.run_metadata import metadata_of_words, run_metadata
from dreambooth_jax.export.words import form_of_words, log_words, save_words
from dreambooth_jax.options import ExportOptions
from dreambooth_jax.paths import at_home
from dreambooth_jax.runs import RunFolder, open_model, open_run, pictures_of
from dreambooth_jax.weights.adapters.dialects import read_key
from dreambooth_jax.weights.adapters.trained import is_of_kernels, modules_of
from dreambooth_jax.weights.adapters.writing import SUFFIX
from dreambooth_jax.weights.embeddings import is_embedding
from dreambooth_jax.weights.single_file import is_single_file, read_single

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
        convert_adapter(options, _dialect(options))
    elif is_embedding(options.source):
        convert_words(options)
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
    said = run_metadata(config, step=run.step, pictures=pictures_of(folder))
    of_words = metadata_of_words(said, config)
    form, words = form_of_words(options.format), (taught, taught.params)
    if not modules:
        log_words(save_words(at_home(options.out), *words, form=form, metadata=of_words))
        return True
    save_with_words(
        options.out,
        run.pipe,
        modules,
        words=words,
        bundle=options.bundle,
        form=form,
        format=_dialect(options) or "auto",
        dtype=options.dtype,
        metadata=said,
        of_words=of_words,
    )
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
