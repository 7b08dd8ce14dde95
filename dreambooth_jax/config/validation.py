# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of the loss on pictures that are not trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

from dreambooth_jax.config.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Settings):
    """Loss on held-out pictures, always at the same noise and timesteps: it says when a run learns by heart."""

    images: str | None = setting(None, path=True, nonempty=True)
    """Folder with other photos of the subject, which are not trained on."""
    holdout: float = setting(0.0, at_least=0, at_most=10_000)
    """Photos of each subject to hold out: a number of them, or a share below 1."""
    every: int = setting(50, at_least=1)
    """Steps between two validations; there is one before the first step, and one after the last."""
    timesteps: int = setting(4, at_least=1, at_most=100)
    """Timesteps for each picture: quantiles of those that are trained."""

    @property
    def is_wanted(self) -> bool:
        """Are there pictures to validate with?"""
        return bool(self.images or self.holdout)


def validation_problems(validation: ValidationConfig, *, several: bool) -> Iterator[str]:
    """What cannot work, one line each.

    Args:
        validation: the settings.
        several: has the run several subjects?
    """
    if validation.holdout > 1 and validation.holdout != int(validation.holdout):
        yield f"validation.holdout is {validation.holdout:g}, but must be a whole number of photos, or a share below 1"
    if validation.images and validation.holdout:
        yield "validation.images and validation.holdout are both given: leave one out"
    if validation.images and several:
        yield "validation.images is of one subject, but there are data.concepts: use validation.holdout"
