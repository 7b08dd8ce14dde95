# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Quality against time: each place of the slider is a list of settings over those of a file."""

from collections.abc import Iterator

from dreambooth_jax.config import Config

SHARES = {1: 0.15, 2: 0.4, 3: 1.0}
"""Place of the slider -> share of the steps, class images and sample pictures of the file."""
DEFAULT = 2
"""With captions the embedded model's subject is itself after these steps, not after the first place's."""
MOMENTS = {"tokens": ("start", "stop", "alone"), "text_encoder": ("start", "stop")}


def recipe(settings: Config, quality: int) -> list[str]:
    """``KEY=VALUE`` of a place of the slider.

    Args:
        settings: of the file.
        quality: a key of ``SHARES``.
    """
    share = SHARES[quality]
    steps = steps_of(settings, quality)
    return [
        f"train.steps={steps}",
        f"prior.num_images={round(share * settings.prior.num_images)}",
        f"samples.every={max(1, round(steps / 4))}",
        f"samples.num_images={max(1, int(share * settings.samples.num_images))}",
        *(f"{key}={max(1, round(share * step))}" for key, step in _moments(settings)),
    ]


def steps_of(settings: Config, quality: int) -> int:
    """Steps of a run at a place of the slider."""
    return max(1, round(SHARES[quality] * settings.train.steps))


def _moments(settings: Config) -> Iterator[tuple[str, int]]:
    """(setting, step of the run at which something begins or ends), which move with the end."""
    for group, names in MOMENTS.items():
        values = {name: getattr(getattr(settings, group), name) for name in names}
        yield from ((f"{group}.{name}", value) for name, value in values.items() if value > 0)
