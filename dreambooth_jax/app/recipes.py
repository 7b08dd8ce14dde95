# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Quality against time: each place of the slider is a list of settings over those of a file."""

from dreambooth_jax.config import load_config

SHARES = {1: 0.15, 2: 0.4, 3: 1.0}
"""Place of the slider -> share of the steps and class images of the file."""


def recipe(config: str, quality: int) -> list[str]:
    """``KEY=VALUE`` of a place of the slider.

    Args:
        config: a YAML file, or the name of one that ships.
        quality: a key of ``SHARES``.
    """
    settings = load_config(config)
    share = SHARES[quality]
    steps = max(1, round(share * settings.train.steps))
    return [
        f"train.steps={steps}",
        f"prior.num_images={round(share * settings.prior.num_images)}",
        f"samples.every={max(1, round(steps / 4))}",
    ]
