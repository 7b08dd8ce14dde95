# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The end of a run: its model or adapter, and what a finished run has to say to other settings.

``exported.json`` says which step they were written from, how, and which files they are. It is written last, and goes
before anything is replaced: what lies there without it may be anything, and is written again.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, ExportConfig, to_dict
from dreambooth_jax.export import bundle_of, metadata_of_words, run_metadata, save_adapter, save_pretrained, save_words
from dreambooth_jax.export.words import form_of_words
from dreambooth_jax.prepare.model import load_model
from dreambooth_jax.prepare.told import told_of
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.text_files import write_text
from dreambooth_jax.trainer.training import Training, as_it_was_read
from dreambooth_jax.training.resume import changed_past
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters import Module
from dreambooth_jax.weights.checking import check_file, readers
from dreambooth_jax.weights.writing import Format

log = logging.getLogger(__name__)

WHOLE = ("safetensors", "flax")
"""Formats of whole models."""


def step_to_export(settings: ExportConfig, *, best: int, last: int) -> int:
    """The step whose weights a run ends with.

    Args:
        settings: what to export.
        best: step of the best checkpoint; below 1 where none is known.
        last: step of the run.
    """
    if settings.weights == "last":
        return last
    if best < 1:
        log.warning("no step was measured, so that none is the best: the last one is exported")
        return last
    log.info("step %d was the best, and is exported", best)
    return best


def export(
    config: Config, folder: RunFolder, training: Training, state: TrainState, *, step: int, of: int | None = None
) -> None:
    """Write what was trained: an adapter's file, or the folder of the whole model. All processes call it, process 0
    writes.

    Args:
        config, folder, training: of the run.
        state: whose weights are written.
        step: that the run has come to.
        of: step of the state; by default the same.
    """
    settings = config.export
    modules = None if settings.format in WHOLE else training.best_modules(state)
    setup = training.setup
    if modules is None:
        params = _in_full(config, training).best_params(state)
    else:
        params = training.best_params(state, *setup.encoders) if setup.pipe.tokenizer.added else {}
    if not distributed.is_main():
        return
    folder.exported.unlink(missing_ok=True)
    if modules is None:
        whole: Format = "flax" if settings.format == "flax" else "safetensors"
        save_pretrained(folder.model, setup.pipe, params, format=whole, dtype=settings.dtype)
        log.info("the personalised model is in %s", folder.model)
        files = [folder.model]
    else:
        files = _export_adapter(config, folder, training, modules, params, step=of or step)
    record = {"step": step, **asdict(settings), "files": [str(file.relative_to(folder.path)) for file in files]}
    write_text(folder.exported, json.dumps(record) + "\n")


def _in_full(config: Config, training: Training) -> Training:
    """The run with all digits of what is frozen, which is read again if they were not kept."""
    mapper = training.setup.mapper
    if not training.is_rounded:
        return training
    return as_it_was_read(training, load_model(config, mapper.target, place=mapper.load).params, config)


def _export_adapter(
    config: Config,
    folder: RunFolder,
    training: Training,
    modules: dict[str, dict[str, Module]],
    params: Tree,
    *,
    step: int,
) -> list[Path]:
    """Write the files of what changes kernels, and of new words, if there are any. Returns what was written.

    Args:
        config, folder, training: of the run.
        modules: what becomes of which layers.
        params: of the text encoders, where there are new words.
        step: of the weights.
    """
    said = run_metadata(config, step=step, pictures=told_of(training.concepts))
    settings, pipe = config.export, training.setup.pipe
    files = []
    if modules:
        form: Literal["auto", "kohya", "peft"] = "auto"
        if settings.format == "kohya" or settings.format == "peft":
            form = settings.format
        save_adapter(
            folder.adapter,
            pipe,
            modules,
            format=form,
            dtype=settings.dtype,
            metadata=said,
            words=bundle_of(pipe, params) if settings.bundle else None,
        )
        who = readers(check_file(folder.adapter))
        log.info("the adapter is in %s: %s; dreambooth-jax check %s says more", folder.adapter, who, folder.adapter)
        files.append(folder.adapter)
    of_words = metadata_of_words(said, config)
    words = save_words(folder.embedding, pipe, params, form=form_of_words(settings.format), metadata=of_words)
    for word, file in zip(pipe.tokenizer.added, words):
        log.info("the new word %s is in %s; in A1111 and ComfyUI it is called as the file is", word, file)
    return [*files, *words]


def is_finished(config: Config, folder: RunFolder, *, step: int) -> bool:
    """Is there what a run with these settings ends with? Then say where, and what comes too late.

    Process 0 looks, for all.

    Args:
        config: of the run.
        folder: of the run.
        step: steps that have been taken.
    """
    if step != config.train.steps:
        return False
    files = exported_files(folder)
    is_there = bool(files) and all(file.exists() for file in files) and _is_wanted(config, folder, step)
    if not distributed.gather(is_there)[0]:
        return False
    log.info("this run is finished: %s", ", ".join(map(str, files)))
    meta = newest_meta(folder)
    changed = changed_past(meta["config"], to_dict(config)) if meta else []
    if changed and distributed.is_main():
        log.warning(
            "%s: too late, since all steps are taken; dreambooth-jax sample %s draws pictures of what is kept",
            ", ".join(changed),
            config.run_dir,
        )
    return True


def exported_files(folder: RunFolder) -> list[Path]:
    """What a finished run has written; nothing where it has not. Runs of before wrote the model's folder alone."""
    found = _record(folder)
    return [folder.path / name for name in found.get("files", [folder.model.name])] if found else []


def _record(folder: RunFolder) -> dict[str, Any]:
    try:
        found = json.loads(folder.exported.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_wanted(config: Config, folder: RunFolder, step: int) -> bool:
    """Whether what was written is what these settings ask for."""
    found = _record(folder)
    if "files" not in found and found.get("format") == "safetensors":  # what runs of before called the default
        found = {**found, "format": config.export.format if config.export.format == "auto" else "safetensors"}
    found = asdict(ExportConfig()) | found  # what runs of before did not know had its default
    return {name: value for name, value in found.items() if name != "files"} == {"step": step, **asdict(config.export)}
