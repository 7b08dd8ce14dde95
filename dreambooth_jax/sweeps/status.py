# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How far a member has come, read from its folder, whoever trained it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.config.files import read_settings
from dreambooth_jax.errors import InputError
from dreambooth_jax.members import Member
from dreambooth_jax.prepare.begun import begun_here
from dreambooth_jax.prepare.fingerprints import Fingerprints
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.text_files import write_text
from dreambooth_jax.trainer.finish import exported_files
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.training.resume import changed_keys, check_not_beyond, check_same_run, flat

ERROR = "error.txt"


class Status(NamedTuple):
    """A member's.

    Attributes:
        step: steps that have been taken.
        finished: has it ended, with its model or adapter?
        error: why it could not go on; empty where it could.
    """

    step: int
    finished: bool
    error: str


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; torn ones are left out."""
    found = []
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            values = json.loads(line)
            found.append({"step": int(values["step"]), **values})
        except (ValueError, KeyError, TypeError):
            continue
    return found


def status_of(folder: Path) -> Status:
    """How far the run of a folder has come."""
    run = RunFolder(folder)
    files = exported_files(run)
    step = int(max((line["step"] for line in metrics_of(folder)), default=0))
    error = folder / ERROR
    return Status(
        step=step,
        finished=bool(files) and all(file.exists() for file in files) and not error.exists(),
        error=error.read_text(encoding="utf-8").strip() if error.exists() else "",
    )


def is_done(member: Member, made_from: Fingerprints | None = None) -> bool:
    """Has it ended, with the settings, photos and model that it has now?

    Args:
        member: which one.
        made_from: of models and photos, to look once at what members share.

    Raises:
        InputError: if another run has begun in its folder; it is said what differs.
    """
    folder = RunFolder(Path(member.config.run_dir))
    if not folder.is_run():
        return False
    old, new = read_settings(folder.config), to_dict(member.config)
    kept = complete_steps(folder.checkpoints)
    status = status_of(folder.path)
    try:
        if kept or status.finished:
            meta: Mapping[str, Any] = {"step": max(kept, default=status.step), "config": old, "fingerprints": {}}
            check_same_run(meta, config=new, fingerprints={})
            check_not_beyond(meta, steps=member.config.train.steps, kept=kept)
        is_over = status.finished and status.step == member.config.train.steps and not _differ(old, new)
        return is_over and _is_made_from_the_same(member.config, folder, made_from or Fingerprints())
    except InputError as error:
        raise InputError(f"{member.name}: {error}") from error


def _is_made_from_the_same(config: Config, folder: RunFolder, made_from: Fingerprints) -> bool:
    """False where pictures cannot be read: the run itself says why. Raises InputError where what they or the model are
    has changed."""
    begun = begun_here(folder, steps=config.train.steps)
    if begun.meta is None:
        return True  # whoever took the checkpoints away took what is known of it
    try:
        pictures = made_from.all_pictures(config, begun)
    except InputError:
        return False
    begun.check_unchanged(config, made_from.model(config), pictures)
    return True


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Is there anything that the run itself has to look at: other photos, say, or another format?"""
    a, b = flat(old), flat(new)
    elsewhere = {"run_dir"}
    if b["prior.num_images"]:  # the same are made anywhere
        elsewhere.add("prior.class_images")
    return bool(changed_keys(old, new)) or any(
        a.get(key) != value for key, value in b.items() if not key.startswith("model.") and key not in elsewhere
    )


def say_error(folder: Path, error: str) -> None:
    """Write down why a member could not go on; an empty text takes that back. Process 0 does."""
    if not distributed.is_main():
        return
    file = folder / ERROR
    if error:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{error}\n")
    else:
        file.unlink(missing_ok=True)
