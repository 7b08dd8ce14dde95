# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers, as rows that lead from level to level: see :mod:`~dreambooth_jax.diffusion.table` for how to read them.

A new one is a generator here and a line in ``SAMPLERS``.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import NamedTuple

from dreambooth_jax.diffusion.levels import Level, Step, fractional_steps, listed_steps, strided_steps
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.table import D, E, Line, Row, SamplerTable, X, Z, make_table
from dreambooth_jax.errors import InputError


def implied_noise(a: Level) -> Line:
    """(x − α D) / σ, the noise in x if D is the data: E, unless D was clipped."""
    return (X - a.alpha * D) / a.sigma


def ddim(steps: Sequence[Step], *, eta: float | int = 0.0) -> Iterator[Row]:
    """DDIM (arXiv 2010.02502, equations 12 and 16); clipped D leaves ε as it is, as in diffusers.

    s  = η √(σ_b² / σ_a²) √(1 − α_a² / α_b²)
    x' = α_b D + √(σ_b² − s²) ε + s z

    Args:
        steps: pairs of levels.
        eta: 0 is deterministic, 1 adds as much noise as ancestral sampling does.
    """
    for a, b in steps:
        s = eta * ancestral_noise(a, b)
        yield Row(a, b.alpha * D + math.sqrt(max(b.sigma**2 - s**2, 0)) * E + s * Z)


def ddpm(steps: Sequence[Step]) -> Iterator[Row]:
    """DDPM (arXiv 2006.11239, equations 6 and 7): draws from the posterior of x' given x and x_0 = D."""
    for a, b in steps:
        s = ancestral_noise(a, b)
        yield Row(a, b.alpha * D + math.sqrt(max(b.sigma**2 - s**2, 0)) * implied_noise(a) + s * Z)


def euler(steps: Sequence[Step]) -> Iterator[Row]:
    """Euler's method for the probability flow in k (arXiv 2206.00364, algorithm 1 without its correction)."""
    for a, b in steps:
        yield Row(a, b.alpha * D + b.sigma * implied_noise(a))


def ancestral_noise(a: Level, b: Level) -> float:
    """Standard deviation of x at level b, given x at the noisier level a and x_0."""
    return b.sigma / a.sigma * math.sqrt(max(1 - (a.alpha / b.alpha) ** 2, 0))


class Sampler(NamedTuple):
    """What a name on the command line stands for."""

    rows: Callable[..., Iterator[Row]]
    """Pairs of levels, and settings as keywords, to rows."""
    steps: Callable[[NoiseSchedule, int], list[Step]] = listed_steps
    """Which pairs of levels a number of steps stands for."""


SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler(ddim, strided_steps),
    "ddpm": Sampler(ddpm),
    "euler": Sampler(euler, fractional_steps),
}


def settings_of(sampler: str) -> tuple[str, ...]:
    """Names of what a sampler can be told, such as eta."""
    return tuple(signature(SAMPLERS[sampler].rows).parameters)[1:]


def build_table(
    sampler: str, schedule: NoiseSchedule, steps: int, *, start: int = 0, **settings: float | int
) -> SamplerTable:
    """The table of a run.

    Args:
        sampler: one of ``SAMPLERS``.
        schedule: of the model.
        steps: from 1 to the number of timesteps that the model was trained with.
        start: how many of the steps are left out at the noisy end; x must then be at the level of the first row.
        settings: of the sampler, such as eta.

    Raises:
        InputError: if there is no such sampler, setting, step or number of steps, or if a network that predicts ε had
            to start from pure noise.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"sampler = {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    kind, defaults = SAMPLERS[sampler], schedule.sampling
    for name, value in settings.items():
        if name not in settings_of(sampler):
            raise InputError(f"{name} = {value!r}: the sampler {sampler!r} has no such setting")
    chosen = kind.steps(schedule, steps)
    if not 0 <= start < len(chosen):
        raise InputError(f"start = {start}: must be from 0 to {len(chosen) - 1}, less than the number of steps")
    chosen = chosen[start:]
    if schedule.prediction_type == "epsilon" and chosen[0][0].alpha == 0:
        raise InputError(
            f"scheduler_config.json: timestep_spacing = {defaults.timestep_spacing!r} starts at zero SNR, where "
            "prediction_type = 'epsilon' tells nothing; it needs 'leading', or a model trained for v_prediction"
        )
    return make_table(
        kind.rows(chosen, **settings),
        final=chosen[-1][1],
        prediction_type=schedule.prediction_type,
        clip=defaults.clip_sample_range if defaults.clip_sample else math.inf,
        size=2 * schedule.num_train_timesteps + 1,  # for two calls of the network in each step
    )
