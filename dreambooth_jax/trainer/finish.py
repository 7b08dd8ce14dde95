# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The end of a run: its model, and what a finished run has to say to other settings.

``exported.json`` says which step the model was written from, and how. It is written last, and goes before the model is
replaced: a model without it may be anything, and is written again.
"""

import json
import logging
from dataclasses import asdict
from typing import Any

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, ExportConfig, to_dict
from dreambooth_jax.export import save_pretrained
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.text_files import write_text
from dreambooth_jax.training.resume import changed_past
from dreambooth_jax.trees import Tree

log = logging.getLogger(__name__)


def export(folder: RunFolder, pipe: Pipeline, params: Tree, *, step: int, settings: ExportConfig) -> None:
    """Write the diffusers folder. Process 0 alone does."""
    if not distributed.is_main():
        return
    folder.exported.unlink(missing_ok=True)
    save_pretrained(folder.model, pipe, params, format=settings.format, dtype=settings.dtype)
    write_text(folder.exported, json.dumps(_record(step, settings)) + "\n")
    log.info("the personalised model is in %s", folder.model)


def is_finished(config: Config, folder: RunFolder, *, step: int) -> bool:
    """Is the model there that a run with these settings ends with? Then say where, and what comes too late.

    Process 0 looks, for all.

    Args:
        config: of the run.
        folder: of the run.
        step: steps that have been taken.
    """
    if step != config.train.steps:
        return False
    try:
        found = json.loads(folder.exported.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not distributed.gather(found == _record(step, config.export) and folder.model.exists())[0]:
        return False
    log.info("this run is finished: %s", folder.model)
    meta = newest_meta(folder)
    changed = changed_past(meta["config"], to_dict(config)) if meta else []
    if changed and distributed.is_main():
        log.warning(
            "%s: too late, since all steps are taken; dreambooth-jax sample %s draws pictures of what is kept",
            ", ".join(changed),
            config.run_dir,
        )
    return True


def _record(step: int, settings: ExportConfig) -> dict[str, Any]:
    return {"step": step, **asdict(settings)}
