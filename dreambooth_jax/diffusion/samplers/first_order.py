# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers of one call and no memory. See :mod:`~dreambooth_jax.diffusion.table` for how to read a row."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dreambooth_jax.diffusion.levels import Level, Step
from dreambooth_jax.diffusion.table import D, E, Line, Row, X, Z


def implied_noise(a: Level) -> Line:
    """(x − α D) / σ, the noise in x if D is the data: E, unless D was clipped."""
    return (X - a.alpha * D) / a.sigma


def first_order(a: Level, b: Level) -> Line:
    """x at level b along the straight line in k: the same noise and data as at level a."""
    return b.alpha * D + b.sigma * implied_noise(a)


def ancestral_noise(a: Level, b: Level) -> float:
    """Standard deviation of x at level b, given x at the noisier level a and x_0."""
    return b.sigma / a.sigma * math.sqrt(max(1 - (a.alpha / b.alpha) ** 2, 0))


class Split(NamedTuple):
    """The k of a level in two parts: what is left of the noise that there was, and what is added. k² = down² + up²."""

    down: float
    up: float


def ancestral_split(a: Level, b: Level, eta: float | int) -> Split:
    """That of the step from a to b (k-diffusion); without eta nothing is added.

    up = min(k_b, η k_b √(1 − k_b² / k_a²))
    """
    up = min(b.k, eta * b.k * math.sqrt(max(1 - (b.k / a.k) ** 2, 0)))
    return Split(math.sqrt(max(b.k**2 - up**2, 0)), up)


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


def ddpm(steps: Sequence[Step], *, large: bool = False) -> Iterator[Row]:
    """DDPM (arXiv 2006.11239, equations 6 and 7): draws from the posterior of x' given x and x_0 = D.

    Args:
        steps: pairs of levels.
        large: the variance is that of the forward process, β, instead of the posterior's; none at t = 0.
    """
    for a, b in steps:
        s = ancestral_noise(a, b)
        added = math.sqrt(max(1 - (a.alpha / b.alpha) ** 2, 0)) if large and a.t > 0 else s
        yield Row(a, b.alpha * D + math.sqrt(max(b.sigma**2 - s**2, 0)) * implied_noise(a) + added * Z)


def euler(steps: Sequence[Step]) -> Iterator[Row]:
    """Euler's method for the probability flow in k (arXiv 2206.00364, algorithm 1 without its correction)."""
    for a, b in steps:
        yield Row(a, first_order(a, b))


def euler_a(steps: Sequence[Step], *, ancestral_eta: float | int = 1.0) -> Iterator[Row]:
    """Euler's method to a level below, and noise back up to the level wanted (k-diffusion's ancestral sampling).

    Args:
        steps: pairs of levels.
        ancestral_eta: 0 is Euler's method, 1 adds as much noise as DDPM.
    """
    for a, b in steps:
        down, up = ancestral_split(a, b, ancestral_eta)
        yield Row(a, b.alpha * (D + down * implied_noise(a) + up * Z))
