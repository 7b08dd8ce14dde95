# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The end of a run: its model, and what a finished run has to say to other settings.

``exported.json`` says which step the model was written from, and how. It is written last, and goes before the model is
replaced: a model without it may be anything, and is written again.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.export import save_pretrained
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.text_files import write_text
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.resume import flat
from dreambooth_jax.training.state import TrainState

log = logging.getLogger(__name__)

PAST = ("samples", "checkpoint")
"""Groups of settings that say what happens during a run, and nothing after it."""


def export(training: Training, state: TrainState) -> None:
    """Write the diffusers folder. Process 0 alone does."""
    config, folder = training.config, training.folder
    params = training.best_params(state)
    if not distributed.is_main():
        return
    folder.exported.unlink(missing_ok=True)
    save_pretrained(folder.model, training.pipe, params, format=config.export.format, dtype=config.export.dtype)
    write_text(folder.exported, json.dumps(_record(config)) + "\n")
    log.info("the personalised model is in %s", folder.model)


def is_exported(config: Config, folder: RunFolder) -> bool:
    """Is the model there that a run with these settings ends with? Process 0 looks, for all."""
    try:
        found = json.loads(folder.exported.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return bool(distributed.gather(found == _record(config) and folder.model.exists())[0])


def _record(config: Config) -> dict[str, Any]:
    return {"step": config.train.steps, **asdict(config.export)}


def tell_what_is_over(meta: Mapping[str, Any], config: Config) -> None:
    """Warn of changed settings that a finished run cannot follow any more.

    Args:
        meta: of the run's last checkpoint.
        config: of now.
    """
    old, new = flat(meta["config"]), flat(to_dict(config))
    changed = [key for key in new if key.split(".")[0] in PAST and key in old and old[key] != new[key]]
    if changed:
        log.warning(
            "%s: too late, since all steps are taken; dreambooth-jax sample %s draws pictures of what is kept",
            ", ".join(f"{key}={new[key]} (was {old[key]})" for key in changed),
            config.run_dir,
        )
