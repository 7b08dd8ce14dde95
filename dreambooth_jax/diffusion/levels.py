# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The noise levels that a sampler visits, as pairs: each step leads from one level to another.

    x = α x_0 + σ ε,    α² + σ² = 1,    k = σ / α

A timestep may be fractional; k, which solvers of the probability flow step in, is then interpolated between those that
the model was trained with. All numbers are float64, on the host.
"""

import math
from typing import NamedTuple

import numpy as np

from dreambooth_jax.diffusion.schedule import NoiseSchedule


class Level(NamedTuple):
    """How noisy x is."""

    t: float
    """The timestep, from 0 to T − 1, as the network is told it."""
    alpha: float
    """How much of the data is in x."""
    sigma: float
    """How much noise is in x."""

    @property
    def k(self) -> float:
        """σ / α, which k-diffusion calls sigma; infinite where x is noise alone."""
        return self.sigma / self.alpha if self.alpha else math.inf


Step = tuple[Level, Level]

CLEAN = Level(t=0.0, alpha=1.0, sigma=0.0)


def level_at(schedule: NoiseSchedule, t: float | int) -> Level:
    """The level at a timestep in [0, T − 1], linear in k between whole ones."""
    bar = schedule.alphas_cumprod.astype(np.float64)
    if t == int(t):
        alpha_bar = float(bar[int(t)])
        return Level(float(t), math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
    near = math.floor(t) + np.arange(2)
    k = np.interp(t, near, np.sqrt(1 / bar[near] - 1))
    return Level(float(t), float(1 / np.hypot(1, k)), float(k / np.hypot(1, k)))


def strided_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """From t to t − T // steps, also where the next timestep visited is another, as in diffusers' DDIM.

    The last leads to ᾱ = 1, or to ᾱ_0 without ``set_alpha_to_one``.
    """
    timesteps = schedule.timesteps(steps).tolist()
    final = CLEAN if schedule.sampling.set_alpha_to_one else level_at(schedule, 0)
    stride = schedule.num_train_timesteps // steps
    return [(level_at(schedule, t), level_at(schedule, t - stride) if t >= stride else final) for t in timesteps]


def listed_steps(schedule: NoiseSchedule, steps: int, *, fractional: bool = False) -> list[Step]:
    """From each timestep to the next one visited, and from the last to ᾱ = 1."""
    levels = [level_at(schedule, t) for t in schedule.timesteps(steps, fractional=fractional).tolist()]
    return list(zip(levels, [*levels[1:], CLEAN]))


def fractional_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """As :func:`listed_steps`, but linspace spacing is not rounded to whole timesteps."""
    return listed_steps(schedule, steps, fractional=True)
