# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which model draws: one before training, by the name of its settings, or one's own training, by its number."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dreambooth_jax.app.jobs import ACTIVE, Job
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.runs.folder import RunFolder
from dreambooth_jax.size import Size
from dreambooth_jax.training.checkpoint import complete_steps

NEWEST, BEST = "", "best"
"""Checkpoints that have no number."""
OF_MODEL = ("revision", "variant", "vae", "unet", "tokenizer", "prediction_type")
"""Settings of a model that ``sample`` is told, too."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What draws.

    Attributes:
        base: what ``sample`` is told of the model before training, which draws as samples of the training are drawn.
        size: that the model was made for.
        steps, guidance_scale: of the training's samples.
        run: folder of the training; None for the model before it.
    """

    base: Mapping[str, Any]
    size: Size
    steps: int
    guidance_scale: float
    run: RunFolder | None = None

    def told(self) -> dict[str, Any]:
        """What ``sample`` is told of it."""
        return {"source": str(self.run.path)} if self.run else dict(self.base)

    def weighted(self, weight: float) -> dict[str, Any]:
        """What ``sample`` is told of it where its adapter counts so much.

        Raises:
            InputError: if it has none.
        """
        if self.run is None:
            raise InputError("the weight is one of a trained adapter: choose a training, or leave it at 1")
        if not self.run.adapter.is_file():
            raise InputError(
                "this training has no adapter's file: it is no LoRA, or has not ended; leave the weight at 1"
            )
        words = sorted(self.run.path.glob(f"{self.run.embedding.stem}*{self.run.embedding.suffix}"))
        told = {**self.base, "lora": f"{self.run.adapter}:{weight:g}"}
        return told | ({"embedding": "; ".join(map(str, words))} if words else {})


def _base(config: Config) -> dict[str, Any]:
    model = {name: getattr(config.model, name) for name in OF_MODEL}
    words = {"identifier": config.data.identifier, "class_noun": config.data.class_noun}
    known = {name: value for name, value in (model | words).items() if value}
    return {"source": config.model.path, **known, **_as_sampled(config)}


def _as_sampled(config: Config) -> dict[str, Any]:
    """Settings of a training's samples, where they differ from those of the command line."""
    sampled = DrawingConfig.of(config.samples.sampling(size=config.data.size))
    usual = SampleOptions(source="-")
    names = [field.name for field in dataclasses.fields(DrawingConfig) if field.name != "prompt_syntax"]
    values = {name: getattr(sampled, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


def offered(desk: Desk, owner: str) -> list[tuple[str, str]]:
    """(what is shown, what it is asked for by): trainings, the newest first and own ones first, then models before."""
    found = [*reversed(desk.of(owner, "train")), *reversed(desk.shared(owner))]
    last = {job.folder: job for job in found if checkpoints(job) or job.state in ACTIVE}  # of those that went on
    trained = sorted(last.values(), key=lambda job: (job.owner != owner, -job.number))
    return [
        *((f"{_shown(job)}{'' if job.owner == owner else ', shared'}", str(job.number)) for job in trained),
        *((f"{Path(name).stem}, before training", name) for name in desk.offered),
    ]


def _shown(job: Job) -> str:
    words = dict(word.partition("=")[::2] for word in job.words[2:])
    steps = checkpoints(job)
    newest = RunFolder(Path(job.folder)).checkpoints / str(steps[-1]) if steps else None
    when = f"{datetime.fromtimestamp(newest.stat().st_mtime):%d %b %H:%M}" if newest else "nothing kept yet"
    state = f", {job.state}" if job.state in ACTIVE else ""
    return f"{job.number}: {words.get('data.class_noun', 'training')}, {when}{state}"


def checkpoints(job: Job) -> list[int]:
    """Steps of a training that were kept, in rising order."""
    return complete_steps(RunFolder(Path(job.folder)).checkpoints)


def steps_of(desk: Desk, owner: str, asked: str) -> list[tuple[str, str]]:
    """(what is shown, what it is asked for by) of the checkpoints of what is asked for; of a model there is one."""
    number = _number(asked)
    try:
        job = desk.run(owner, number) if number is not None else None
    except InputError:
        job = None
    steps = checkpoints(job) if job else []
    keeps_best = job is not None and load_config(job.words[1], job.words[2:]).checkpoint.keep_best
    best = [("the best", BEST)] if keeps_best and steps else []
    return [("the newest", NEWEST), *best, *((f"step {step}", str(step)) for step in reversed(steps))]


def source_of(desk: Desk, owner: str, asked: str) -> Source:
    """What is asked for.

    Raises:
        InputError: if it is not offered, or of somebody else.
    """
    number = _number(asked)
    if number is None:
        desk.check_offered(asked)
    job = None if number is None else desk.run(owner, number)
    config = load_config(job.words[1], job.words[2:]) if job else desk.settings(asked)
    return Source(
        base=_base(config),
        size=config.data.size,
        steps=config.samples.steps,
        guidance_scale=config.samples.guidance_scale,
        run=RunFolder(Path(job.folder)) if job else None,
    )


def step_of(asked: str) -> int | str | None:
    """A checkpoint as ``sample`` is told it.

    Raises:
        InputError: if it is none.
    """
    number = _number(asked)
    if number is None and asked not in (NEWEST, BEST):
        raise InputError(f"the checkpoint {asked[:40]!r} is none: write its step, or best")
    return number if number is not None else asked or None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def without(told: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """All of it but some."""
    return {name: value for name, value in told.items() if name not in names}
