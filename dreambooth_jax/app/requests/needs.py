# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking what a training will need: memory by a plan, time by how long others took."""

import json
from pathlib import Path
from typing import Any

from dreambooth_jax.app.plans import Plans, Words
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.recipes import DEFAULT, recipe
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.settings import words_of
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.planning.result import gb
from dreambooth_jax.runs.folder import RunFolder

ANYBODY = ("data.instance_images=photos", "data.class_noun=thing")
"""No program depends on whom photos show."""


def command(desk: Desk, *, config: str, method: str = "", quality: int = DEFAULT, settings: str = "") -> Words:
    """The settings of a run that its needs depend on.

    Raises:
        InputError: for settings that are wrong, or not offered.
    """
    desk.check_offered(config)
    more = words_of(settings)
    own = recipe(desk.settings(config, method=method), quality)
    desk.settings(config, [*ANYBODY, *own, *more], method)
    return (*desk.words(config, method), *ANYBODY, *own, *more)


def memory(plans: Plans, owner: str) -> str:
    """What is known of the memory of what somebody wants to train, in words; empty if nothing is asked."""
    told = plans.told(owner)
    if told is None:
        return ""
    known = told.known
    if "error" in known:
        return placeless(str(known["error"]))
    of = f" of {gb(known['room'])}" if known.get("room") else ""
    if "peak" in known:
        fits = not known["room"] or known["peak"] <= known["room"]
        advice = "" if fits or not known["advice"] else f": {known['advice'][0]}"
        return f"memory: needs {gb(known['peak'])}{of} GB{'' if fits else ', which does not fit'}{advice}"
    held = f"at least {gb(known['held'])}{of} GB between steps; " if "held" in known else ""
    if told.done:
        return f"memory: {held}no more could be found out"
    waits = "others are planned first" if told.since is None else f"planning for {told.since:.0f} s, usually a minute"
    return f"memory: {held}{waits}"


def fits(plans: Plans, owner: str) -> bool:
    """Has what somebody wants to train place on the device, by all that can be known, or by shapes so far?"""
    told = plans.told(owner)
    if told is None or "error" in told.known:
        return False
    need, room = told.known.get("peak", told.known.get("held")), told.known.get("room")
    return told.done if need is None else not room or need <= room


def time_of(desk: Desk, config: Config) -> str:
    """How long the steps of a run will take, by the newest run of the same model, method and size; in words."""
    for job in reversed(desk.queue.of_all()):
        folder = RunFolder(Path(job.folder))
        if job.words[0] != "train" or not folder.is_run():
            continue
        try:
            other = load_config(folder.config)
        except InputError:
            continue
        seconds = _seconds_a_step(folder.path, other)
        if seconds and _alike(other, config):
            minutes, rest = divmod(round(seconds * config.train.steps), 60)
            return f"time: about {minutes} min {rest} s of steps, {seconds:.2g} s each as lately"
    return "time: not known before the first training of its kind"


def _alike(one: Config, other: Config) -> bool:
    """Does a step of both take about the same time?"""
    return _work(one) == _work(other)


def _work(config: Config) -> tuple[Any, ...]:
    what = config.model.path, config.adapter, config.data.resolution, bool(config.text_encoder.stop)
    return (*what, config.train.batch_size, config.prior.kind, bool(config.prior.weight))


def _seconds_a_step(run: Path, config: Config) -> float | None:
    """By the speed that the run's last line of metrics tells."""
    try:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    examples = config.train.batch_size * (2 if config.prior.weight and config.prior.kind == "pictures" else 1)
    return examples / speeds[-1] if speeds else None
