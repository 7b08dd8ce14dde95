# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking for a model as other tools load it."""

import os
import re
import secrets
import shutil
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dreambooth_jax.app.jobs import ACTIVE, Job
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.config import Config
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import FAMILIES
from dreambooth_jax.options import ExportOptions

MOST_KEPT = 4
"""Exports of one person; the oldest make room."""
DTYPES = ("float16", "float32")
AS_IT_IS = ("lora", "rank_relaxed", "textual_inversion", "pivotal")
"""Adapters that tools load as they were trained; of others they get the nearest LoRA."""
RANK = 16
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a model becomes.

    Attributes:
        ending: of its file; empty for a folder, which is zipped.
        format: setting of ``export``.
        loads: who takes it, and where it belongs there.
    """

    ending: str
    format: str
    loads: str


FORMS = {
    "LoRA": Form(
        ending=".safetensors",
        format="auto",
        loads="What was added to the model, in some megabytes; each tool needs the model that it was trained on. A1111 "
        "and Forge: `models/Lora`, and `<lora:NAME:1>` in the prompt. ComfyUI: `models/loras`, by the node Load LoRA. "
        "diffusers: `pipe.load_lora_weights(FILE)`.",
    ),
    "single file": Form(
        ending=".safetensors",
        format="ldm",
        loads="The whole model in one file. A1111 and Forge: `models/Stable-diffusion`. ComfyUI: `models/checkpoints`. "
        "diffusers: `from_single_file(FILE, torch_dtype=torch.float16)` of the model's pipeline: "
        f"{', '.join(FAMILIES)}.",
    ),
    "diffusers folder": Form(
        ending="",
        format="safetensors",
        loads="The whole model as a folder, zipped. diffusers: `DiffusionPipeline.from_pretrained(FOLDER, "
        "torch_dtype=torch.float16)`. The command line: `model.path=FOLDER`. A1111 does not load it.",
    ),
}
"""Name -> form."""


def export(desk: Desk, owner: str, *, of: int, form: str, dtype: str) -> Job:
    """Ask for a model in a form of ``FORMS``.

    Args:
        desk: that is asked.
        owner: who asks.
        of: number of a training of the same owner; 0 is the newest.
        form: a key of ``FORMS``.
        dtype: of its numbers, one of ``DTYPES``.

    Raises:
        InputError: if there is no such training or form, or nothing was saved of it yet.
    """
    if form not in FORMS:
        raise InputError(f"{form!r} is not one of {', '.join(FORMS)}")
    if dtype not in DTYPES:
        raise InputError(f"{dtype!r} is not one of {', '.join(DTYPES)}")
    run = desk.own(owner, of)  # of others, what is shared may be drawn with, and is not theirs to give
    config = desk.saved(owner, run.number)
    asked = FORMS[form]
    place = desk.place(owner) / "exports" / secrets.token_hex(32)
    told = {"out": str(place / f"{_name(config)}{asked.ending}"), "format": asked.format, "dtype": dtype}
    as_it_is = form != "LoRA" or config.adapter.kind in AS_IT_IS
    words = [f"{key}={value}" for key, value in told.items()] + ([] if as_it_is else [f"rank={RANK}"])
    check_arguments(ExportOptions(source=run.folder, out=told["out"]))
    job = desk.queue.add(owner, ["export", run.folder, *words], place)
    _make_room(desk, owner)
    return job


def packed(desk: Desk, job: Job) -> Path | None:
    """What may be downloaded of an export: one file, moved to where it is served from; None if there is none (yet)."""
    folder = desk.cache / Path(job.folder).name
    with _ONE_AT_A_TIME:
        if not folder.exists() and job.state == "done" and Path(job.folder).is_dir():
            _pack(Path(job.folder), folder)
    return next(iter(sorted(folder.glob("*"))), None)


def _pack(made: Path, folder: Path) -> None:
    """A folder becomes a zip, of which nothing is compressed: weights hardly are smaller so."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    first, *more = sorted(made.iterdir())
    if more or first.is_dir():
        with zipfile.ZipFile(unfinished / f"{first.stem}.zip", "w") as archive:
            for file in sorted(made.rglob("*")):
                archive.write(file, file.relative_to(made))
    else:
        shutil.move(first, unfinished / first.name)
    os.replace(unfinished, folder)
    shutil.rmtree(made)


def _make_room(desk: Desk, owner: str) -> None:
    for job in desk.of(owner, "export")[MOST_KEPT:]:
        if job.state not in ACTIVE:
            for place in (Path(job.folder), desk.cache / Path(job.folder).name):
                shutil.rmtree(place, ignore_errors=True)


def _name(config: Config) -> str:
    """Of the subject, for a file."""
    said = f"{config.data.identifier} {config.data.class_noun}".lower()
    return re.sub(r"[^a-z0-9]+", "-", said).strip("-")[:40] or "model"
