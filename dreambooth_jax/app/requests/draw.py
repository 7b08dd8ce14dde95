# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking for pictures."""

import secrets
from typing import Any

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.config import load_config
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prompts.named import expanded

MOST_PICTURES, MOST_STEPS = 16, 150


def draw(
    desk: Desk, owner: str, *, of: int | None, config: str, prompt: str, negative: str, steps: int, guidance: float,
    seed: int, count: int,
) -> Job:  # fmt: skip
    """Ask for pictures.

    Args:
        desk: that is asked.
        owner: who asks.
        of: number of a training of the same owner; None for the model that ``config`` begins with.
        config: one of those that can be trained.
        prompt, negative: what to draw and what not.
        steps: of the sampler.
        guidance: its scale.
        seed: of the first picture.
        count: pictures.

    Raises:
        InputError: if the prompt names files, something is too large, or the training is of somebody else.
    """
    desk.check_offered(config)
    check_text("the prompt", prompt)
    check_text("what not to draw", negative)
    if not prompt.strip():
        raise InputError("write what to draw")
    if not (1 <= count * len(expanded([prompt])) <= MOST_PICTURES and 1 <= steps <= MOST_STEPS):
        raise InputError(f"1 to {MOST_PICTURES} pictures of 1 to {MOST_STEPS} steps, not more")
    source = load_config(config).model.path if of is None else desk.run(owner, of).folder
    out = desk.place(owner) / "pictures" / secrets.token_hex(8)
    told: dict[str, Any] = {
        "steps": steps, "guidance_scale": guidance, "seed": seed, "num_images": count, "out": str(out),
        "negative_prompt": negative,
    }  # fmt: skip
    check_arguments(SampleOptions(source=source, prompts=(prompt,), **told))
    words = [source, *(f"{key}={value}" for key, value in told.items() if value != ""), "--", prompt]
    return desk.queue.add(owner, ["sample", *words], out)
