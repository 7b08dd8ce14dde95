# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking for a training."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.app.jobs import ACTIVE, Job
from dreambooth_jax.app.limits import check_limits
from dreambooth_jax.app.recipes import DEFAULT, SHARES, recipe, steps_of
from dreambooth_jax.app.requests.captions import apart, captions
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.settings import words_of
from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.app.uploads import keep, read_all
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError


def train(
    desk: Desk, owner: str, sent: Sequence[str | Path], *, config: str, noun: str, identifier: str = "",
    quality: int = DEFAULT, method: str = "", settings: str = "",
) -> Job:  # fmt: skip
    """Ask for a training.

    Args:
        desk: that is asked.
        owner: who asks.
        sent: photos, and captions of them, where the server has put them.
        config: one of those that can be trained.
        noun: what the photos show.
        identifier: the word for this one; empty is that of the settings.
        quality: place of the slider.
        method: one of ``METHODS``; empty is the settings' own.
        settings: lines of ``KEY=VALUE``, which win.

    Raises:
        InputError: naming what is wrong of the photos, the words or the settings.
    """
    desk.check_offered(config)
    if not noun.strip():
        raise InputError("what the photos show is not said: write it in one word, such as dog")
    _check_quality(quality)
    check_text("what the photos show", noun)
    check_text("the word for this one", identifier)
    more = words_of(settings)
    pictures = read_all(apart(sent)[0], desk.limits.photos)
    said = captions(sent, Subject(identifier=identifier, class_noun=noun))
    run = desk.place(owner) / "runs" / secrets.token_hex(8)
    words = [f"data.class_noun={noun.strip()}", f"run_dir={run}"]
    words += [f"data.identifier={identifier.strip()}"] if identifier.strip() else []
    words += [*recipe(desk.settings(config, method=method), quality), *more]
    _check(desk, desk.settings(config, ["data.instance_images=photos", *words], method))
    photos = keep(pictures, desk.place(owner) / "photos", captions=said)
    file, *own = desk.words(config, method)
    return desk.queue.add(owner, ["train", file, *own, f"data.instance_images={photos}", *words], run)


def _check(desk: Desk, settings: Config) -> None:
    check_config(settings)
    check_limits(settings, desk.limits)


def length(desk: Desk, *, config: str, quality: int, method: str = "") -> int:
    """Steps that a training of these settings would take.

    Raises:
        InputError: if it cannot be trained, or there is no such place of the slider.
    """
    desk.check_offered(config)
    _check_quality(quality)
    return steps_of(desk.settings(config, method=method), quality)


def _check_quality(quality: int) -> None:
    if quality not in SHARES:
        raise InputError(f"quality {quality} is not one of {', '.join(map(str, SHARES))}")


def again(desk: Desk, owner: str, number: int) -> Job:
    """Ask for the same training again, which goes on where it stopped.

    Args:
        desk: that is asked.
        owner: who asks.
        number: of the training; 0 is the newest.

    Raises:
        InputError: if there is none of that number, or it has not ended.
    """
    newest = newest_of(desk, owner, number)
    if newest.state in ACTIVE:
        raise InputError(f"training {desk.own(owner, number).number} waits or runs already")
    return desk.queue.add(owner, newest.words, Path(newest.folder))


def stop(desk: Desk, owner: str, number: int) -> Job:
    """Stop a training, which can go on later from what it saves now.

    Args:
        desk: that is asked.
        owner: who asks.
        number: of the training; 0 is the newest.

    Raises:
        InputError: if there is none of that number.
    """
    desk.queue.stop(owner, newest_of(desk, owner, number).number)
    return newest_of(desk, owner, number)


def newest_of(desk: Desk, owner: str, number: int) -> Job:
    """The last that was asked for of a training, which may have gone on since under another number.

    Args:
        desk: that is asked.
        owner: who asks.
        number: of the training; 0 is the newest.

    Raises:
        InputError: if there is none of that number.
    """
    run = desk.own(owner, number)
    return next(job for job in desk.of(owner, "train") if job.folder == run.folder)
