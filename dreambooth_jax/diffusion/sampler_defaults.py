# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a model says about samplers: above all which timesteps they visit (Table 2 of arXiv 2305.08891)."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float64

from dreambooth_jax.errors import InputError

TimestepSpacing: TypeAlias = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True, kw_only=True)
class SamplerDefaults:
    """What a ``scheduler_config.json`` says about samplers. Fields are named as its keys are."""

    timestep_spacing: TimestepSpacing = "leading"
    """How a few timesteps are chosen among all."""
    steps_offset: int = 1
    """Added to the timesteps of leading spacing."""
    set_alpha_to_one: bool = True
    """Whether DDIM's last step goes to ᾱ = 1, or to ᾱ_0."""
    clip_sample: bool = False
    """Whether the predicted x_0 is clipped."""
    clip_sample_range: float = 1.0
    """To ± this."""

    def timesteps(self, steps: int, count: int, *, fractional: bool = False) -> Float64[np.ndarray, "{steps}"]:
        """Timesteps that a sampler visits, from noise to picture.

        Equal to those of diffusers, except that trailing spacing there gives some numbers of steps (61 of 1000 is the
        first) one timestep too many, −1.

        Args:
            steps: how many.
            count: T, how many the model was trained with.
            fractional: those of linspace spacing are not rounded to whole ones, only to float32, which the network is
                told. The others are always whole.

        Raises:
            InputError: if there are not so many timesteps.
        """
        if not 1 <= steps <= count:
            raise InputError(f"steps = {steps}: take 1 to {count}, as many as the model was trained with")
        if self.timestep_spacing == "leading":
            first = (steps - 1) * (count // steps) + self.steps_offset
            if first >= count:
                raise InputError(f"steps = {steps}: steps_offset puts the first at {first} of {count}; take fewer")
            chosen: np.ndarray = np.arange(first, self.steps_offset - 1, -(count // steps))
        elif self.timestep_spacing == "trailing":
            chosen = np.arange(count, 0, -count / steps)[:steps].round() - 1
        else:
            evenly = np.linspace(0, count - 1, steps)[::-1]
            chosen = evenly.astype(np.float32) if fractional else evenly.round()
        return chosen.astype(np.float64)
