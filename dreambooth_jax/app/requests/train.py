# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking for a training."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.app.jobs import ACTIVE, Job
from dreambooth_jax.app.recipes import SHARES, recipe
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.app.uploads import take
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError


def train(
    desk: Desk, owner: str, sent: Sequence[str | Path], *, config: str, noun: str, identifier: str, quality: int
) -> Job:
    """Ask for a training.

    Raises:
        InputError: naming what is wrong of the photos, the words or the settings.
    """
    desk.check_offered(config)
    if not noun.strip():
        raise InputError("say what the photos show, in one word, such as dog")
    if quality not in SHARES:
        raise InputError(f"quality {quality} is not one of {', '.join(map(str, SHARES))}")
    check_text("what the photos show", noun)
    check_text("the word for this one", identifier)
    photos = take(sent, desk.place(owner) / "photos")
    run = desk.place(owner) / "runs" / secrets.token_hex(8)
    words = [f"data.instance_images={photos}", f"data.class_noun={noun.strip()}", f"run_dir={run}"]
    words += [f"data.identifier={identifier.strip()}"] if identifier.strip() else []
    words += recipe(load_config(config), quality)
    check_config(load_config(config, words))
    return desk.queue.add(owner, ["train", config, *words], run)


def again(desk: Desk, owner: str, number: int) -> Job:
    """Ask for the same training again, which goes on where it stopped.

    Raises:
        InputError: if there is none of that number, or it has not ended.
    """
    run = desk.own(owner, number)
    if any(job.folder == run.folder and job.state in ACTIVE for job in desk.of(owner, "train")):
        raise InputError("it waits or runs already")
    return desk.queue.add(owner, run.words, Path(run.folder))
