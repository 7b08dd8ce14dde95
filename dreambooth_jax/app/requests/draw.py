# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking for pictures."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.limits import USUAL, Limits
from dreambooth_jax.app.requests import guide
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.guide import Guiding
from dreambooth_jax.app.requests.matrix import grid_of
from dreambooth_jax.app.requests.sources import NEWEST, Source, source_of, step_of, without
from dreambooth_jax.app.requests.start import STEP, Sent, keep, opened
from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.cli.words import quoted_list
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prompts.named import expanded

MOST_PICTURES, MOST_STEPS = USUAL.most["samples.num_images"], USUAL.most["samples.steps"]
MAIN = ("negative_prompt", "sampler", "schedule", "steps", "guidance_scale", "width", "height", "strength")
"""Settings that most people want."""
MORE = (
    *("profile", "clip_skip", "emphasis", "prompt_syntax", "guidance_rescale", "eta", "ancestral_eta", "gamma"),
    *("noise", "noise_seed_delta", "variation_of", "variation_strength", "mask_blur", "mask_padding", "fixed_steps"),
    *("hires_scale", "hires_by", "hires_strength", "hires_steps", "tiled"),
    *("original_width", "original_height", "crop_left", "crop_top", "target_width", "target_height"),
)
"""Settings that few people want. What names a place in the file system is in neither list."""
DRAWN, BEFORE = "drawn", "before"
"""Folders of what is asked for, and of the same with the model before training."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What somebody wants drawn.

    Attributes:
        source: a name of settings, for the model before training, or the number of a training of the same owner.
        step: of a checkpoint of the training; empty for the newest.
        weight: of the training's adapter.
        prompt: what to draw.
        seed: of the first picture.
        count: pictures.
        settings: of ``MAIN`` and ``MORE``; what is None or empty is as in the samples of the training.
        before: draw the same with the model before training, too.
        start: a picture to begin with.
        guides: pictures that guide, by networks.
        varied: (setting, its values as text) of a matrix.
    """

    source: str
    step: str = NEWEST
    weight: float = 1.0
    prompt: str = ""
    seed: int = 0
    count: int = 4
    settings: Mapping[str, Any] = field(default_factory=dict)
    before: bool = False
    start: Sent = field(default_factory=Sent)
    guides: Sequence[Guiding] = ()
    varied: Sequence[tuple[str, str]] = ()


def draw(desk: Desk, owner: str, asked: Drawing) -> list[Job]:
    """Ask for pictures. With ``before`` there are two jobs, the model before training last.

    Raises:
        InputError: if the prompt names files, something is too large, or the training is of somebody else.
    """
    source = source_of(desk, owner, asked.source)
    if asked.before and source.run is None:
        raise InputError("before and after are of a training: choose one, or leave the tick out")
    told = _told(source, asked, desk.limits)
    models = {DRAWN: _model(source, asked)} | ({BEFORE: dict(source.base)} if asked.before else {})
    place = desk.place(owner) / "pictures" / secrets.token_hex(8)
    start = opened(asked.start, desk.limits.photos)
    guides = guide.opened(asked.guides, desk.networks, desk.limits.photos)
    others = {name for name, _ in asked.varied} | ({"width", "height"} if start else set())
    models = {name: without(model, others) for name, model in models.items()}
    for name, model in models.items():  # before anything is kept
        _words(model, told, place / name)
    most_side = int(desk.limits.most["data.resolution"] / told.get("hires_scale", 1)) // STEP * STEP
    told |= keep(start, asked.start.percent, place, size=source.size, told=told, most_side=most_side)
    told |= guide.keep(guides, place, size=source.size, told=told, most_side=most_side)
    lines = {name: _words(model, told, place / name) for name, model in models.items()}
    jobs: list[Job] = []
    try:
        for name, words in lines.items():
            jobs.append(desk.queue.add(owner, words, place / name))
    except InputError:
        for job in jobs:  # both, or none
            desk.queue.stop(owner, job.number)
        raise
    return jobs


def _model(source: Source, asked: Drawing) -> dict[str, Any]:
    step = step_of(asked.step)
    if asked.weight == 1:
        if step is not None and source.run is None:
            raise InputError("a model before training has no checkpoint to choose: leave it at the newest")
        return source.told() | ({} if step is None else {"step": step})
    if step is not None:
        raise InputError("the adapter's file is that of the newest checkpoint: leave the checkpoint, or the weight")
    return source.weighted(asked.weight)


def _told(source: Source, asked: Drawing, limits: Limits) -> dict[str, Any]:
    """What every model is told."""
    check_text("the prompt", asked.prompt)
    if "{class_noun}" in asked.prompt and "class_noun" not in source.base:
        raise InputError("the prompt has {class_noun}, which only a training knows: choose one, or write the word")
    settings = _settings(asked.settings, limits.most["samples.steps"])
    if not 0 <= asked.seed < 2**32 - MOST_PICTURES and settings.get("noise", "jax") == "jax":
        raise InputError(f"the seed is {asked.seed}: 0 to {2**32 - MOST_PICTURES - 1}")
    _check_size(source, settings, limits.most["data.resolution"])
    told = settings | {"seed": asked.seed, "prompts": (asked.prompt,)}
    if not asked.varied:
        if not asked.prompt.strip():
            raise InputError("write what to draw")
        most = limits.most["samples.num_images"]
        if not 1 <= asked.count * len(expanded([asked.prompt])) <= most:
            raise InputError(f"{asked.count} pictures: 1 to {most}, not more")
        return told | {"num_images": asked.count}
    grid = grid_of(asked.varied, most_steps=limits.most["samples.steps"])
    names = {name for name, _ in asked.varied}
    if "prompt" not in names and not asked.prompt.strip():
        raise InputError("write what to draw")
    if "step" in names and (source.run is None or asked.before or asked.step or asked.weight != 1):
        raise InputError("a matrix of checkpoints is of a training alone, with no other checkpoint and no weight")
    return without(told, names | ({"prompts"} if "prompt" in names else set())) | {"grid": grid}


def _settings(given: Mapping[str, Any], most_steps: int) -> dict[str, Any]:
    """Those that are told, checked."""
    for name, value in given.items():
        if name not in (*MAIN, *MORE):
            raise InputError(f"{name[:40]!r} is nothing that can be set here")
        if isinstance(value, str):
            check_text(name, value)
    told = {name: value for name, value in given.items() if value not in (None, "")}
    changed = DrawingConfig().changed(told)
    check_arguments(changed)
    if max(changed.steps, changed.hires_steps or 0) > most_steps:
        raise InputError(f"{max(changed.steps, changed.hires_steps or 0)} steps: 1 to {most_steps}, not more")
    return told


def _check_size(source: Source, told: Mapping[str, Any], most: int) -> None:
    for name in ("width", "height"):
        if (told.get(name) or 0) % STEP:
            raise InputError(f"{name} = {told[name]}: must be a multiple of {STEP}")
    sides = [told.get(name) or side for name, side in source.size._asdict().items()]
    largest = round(max(sides) * told.get("hires_scale", 1))
    if largest > most:
        raise InputError(f"a picture of {largest} pixels on a side: at most {most}")


def _words(model: Mapping[str, Any], told: Mapping[str, Any], out: Path) -> list[str]:
    """The command line.

    Raises:
        InputError: for what ``sample`` would not take.
    """
    own = {"out": str(out), "preview": str(out.with_suffix(".jpg")), "progress": "steps"}
    values = {**model, **told, **own}
    prompts = values.pop("prompts", ())
    check_arguments(SampleOptions(**without(values, ("lora", "embedding")), prompts=prompts))
    source = values.pop("source")
    return ["sample", source, *(f"{name}={_as_word(value)}" for name, value in values.items()), "--", *prompts]


def _as_word(value: Any) -> str:
    if isinstance(value, tuple):
        return quoted_list(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
