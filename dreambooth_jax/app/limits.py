# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How much one person, and all together, may ask for; and how little where strangers try the page (``demo``)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dreambooth_jax.app.uploads import Bounds
from dreambooth_jax.config import Config
from dreambooth_jax.config.setting import shown
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions
from dreambooth_jax.size import Size


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be asked for.

    Attributes:
        photos: bounds of what is sent at once.
        most: setting -> its largest value; of a list its longest, of a size its longer side's.
        jobs: of one person that wait or run.
        queue: jobs of all that wait or run.
        hours: after which what has ended is forgotten, with its files; None keeps it.
    """

    photos: Bounds
    most: Mapping[str, int]
    jobs: int
    queue: int
    hours: float | None


USUAL = Limits(
    photos=Bounds(),
    most={
        "train.steps": 20_000,
        "train.batch_size": 64,
        "train.accumulation": 64,
        "data.resolution": 2048,
        "data.templates": 200,
        "prior.num_images": 2000,
        "prior.steps": 150,
        "prior.prompts": 64,
        "samples.num_images": 16,
        "samples.steps": 150,
        "samples.prompts": 32,
        "samples.class_prompts": 32,
        "adapter.rank": 512,
        "checkpoint.keep_last": 10,
    },
    jobs=8,
    queue=1000,
    hours=None,
)
DEMO = Limits(
    photos=Bounds(files=10, megabytes=10, megapixels=20),
    most={
        "train.steps": 400,
        "train.batch_size": 4,
        "train.accumulation": 1,
        "data.resolution": 512,
        "data.templates": 32,
        "prior.num_images": 60,
        "prior.steps": 30,
        "prior.prompts": 8,
        "samples.num_images": 4,
        "samples.steps": 50,
        "samples.prompts": 8,
        "samples.class_prompts": 4,
        "adapter.rank": 32,
        "checkpoint.keep_last": 1,
    },
    jobs=2,
    queue=20,
    hours=24,
)


def limits_of(options: AppOptions) -> Limits:
    """Of a page."""
    return DEMO if options.demo else replace(USUAL, jobs=options.most_jobs)


def check_limits(config: Config, limits: Limits) -> None:
    """Raise InputError for the first setting of a run that is above its limit."""
    for key, most in limits.most.items():
        value = _value(config, key)
        measured = _measure(value)
        if measured > most:
            raise InputError(f"{key} = {shown(value)}: on this page at most {most}")


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _measure(value: Any) -> float:
    kinds: dict[type, Callable[[Any], float]] = {tuple: len, str: lambda size: max(Size.parse(size))}
    return kinds.get(type(value), float)(value)
