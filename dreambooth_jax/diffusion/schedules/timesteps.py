# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Levels at the timesteps that a model's own spacing picks: leading, trailing or linspace (arXiv 2305.08891, Table 2).

Each function takes the model's schedule and a number of steps and gives pairs of levels. Kinds of samplers differ in
them as the schedulers of diffusers do.
"""

from itertools import pairwise

import numpy as np

from dreambooth_jax.diffusion.levels import CLEAN, Ladder, Level, Step, level_at
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError

ORIGINAL_STEPS = 50
"""Timesteps that consistency models were distilled at, evenly spaced."""


def strided_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """From t to t − T // steps, also where the next timestep visited is another, as in diffusers' DDIM and PNDM.

    The last leads to ᾱ = 1, or to ᾱ_0 without ``set_alpha_to_one``.
    """
    timesteps = schedule.timesteps(steps).tolist()
    final = CLEAN if schedule.sampling.set_alpha_to_one else level_at(schedule, 0)
    stride = schedule.num_train_timesteps // steps
    return [(level_at(schedule, t), level_at(schedule, t - stride) if t >= stride else final) for t in timesteps]


def listed_steps(schedule: NoiseSchedule, steps: int, *, fractional: bool = False) -> list[Step]:
    """From each timestep to the next one visited, and from the last to ᾱ = 1."""
    timesteps = schedule.timesteps(steps, fractional=fractional)
    return to_clean([level_at(schedule, t) for t in timesteps.tolist()])


def fractional_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """As :func:`listed_steps`, but linspace spacing is not rounded to whole timesteps (Euler and its kin)."""
    return listed_steps(schedule, steps, fractional=True)


def spared_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """As :func:`listed_steps`, but leading and linspace spacing pick one more and spare the least noisy (DPM-Solver).

    Raises:
        InputError: if there are not so many timesteps.
    """
    count, defaults = schedule.num_train_timesteps, schedule.sampling
    if defaults.timestep_spacing == "trailing":
        return listed_steps(schedule, steps)
    if not 1 <= steps < count:
        raise InputError(f"steps = {steps}: this sampler takes 1 to {count - 1}, fewer than the model was trained with")
    if defaults.timestep_spacing == "leading":
        chosen: np.ndarray = np.arange(1, steps + 1) * (count // (steps + 1)) + defaults.steps_offset
        if chosen[-1] >= count:
            raise InputError(f"steps = {steps}: steps_offset puts the first at {chosen[-1]} of {count}; take fewer")
    else:
        chosen = np.linspace(0, count - 1, steps + 1).round()[1:]
    return to_clean([level_at(schedule, t) for t in chosen[::-1].tolist()])


def consistency_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """Evenly picked among the timesteps that latent consistency models were distilled at (arXiv 2310.04378).

    Raises:
        InputError: if there are not so many.
    """
    most = min(ORIGINAL_STEPS, schedule.num_train_timesteps)
    if not 1 <= steps <= most:
        raise InputError(f"steps = {steps}: consistency samplers take 1 to {most}; 4 to 8 are usual")
    known = (np.arange(most, 0, -1) * (schedule.num_train_timesteps // most) - 1).tolist()
    chosen = np.floor(np.linspace(0, most, steps, endpoint=False)).astype(int)
    return to_clean([level_at(schedule, known[i]) for i in chosen])


def trajectory_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """As :func:`consistency_steps`, but the last leads to t = 0, as the model was distilled (arXiv 2402.19159)."""
    pairs = consistency_steps(schedule, steps)
    return [*pairs[:-1], (pairs[-1][0], level_at(schedule, 0))]


def compvis_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """Those of A1111's DDIM and PLMS: every (T // steps)-th from 1 on, and the last step leads to the first of them.

    There are T // (T // steps) − 1 of them or one more: one less than asked for, or several more.
    """
    count = schedule.num_train_timesteps
    if not 1 <= steps <= count:
        raise InputError(f"steps = {steps}: take 1 to {count}, as many as the model was trained with")
    chosen = np.clip(np.arange(0, count, count // steps) + 1, 0, count - 1)[::-1]
    levels = [level_at(schedule, t) for t in chosen.tolist()]
    return list(pairwise(levels)) or [(levels[0], level_at(schedule, 0))]


def time_uniform_steps(schedule: NoiseSchedule, steps: int) -> list[Step]:
    """Those of UniPC's authors, and so of A1111: T − 1 to 0, evenly, with ln α linear between whole timesteps."""
    ladder = Ladder.of(schedule, interpolation="log_alpha")
    levels = [ladder.at(t) for t in np.linspace(ladder.last, 0, steps + 1).tolist()]
    return list(pairwise(levels))


def to_clean(levels: list[Level], final: Level = CLEAN) -> list[Step]:
    """From each level to the next, and from the last to ``final``."""
    return list(zip(levels, [*levels[1:], final]))
