# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers that call the network twice in a step.

Into the data, and out of noise alone, they take a step of first order, with one call.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from dreambooth_jax.diffusion.levels import Ladder, Level, Step
from dreambooth_jax.diffusion.samplers.first_order import ancestral_split, first_order, implied_noise
from dreambooth_jax.diffusion.table import R1, R2, D, Line, Row, X, Z


def heun(steps: Sequence[Step]) -> Iterator[Row]:
    """Heun's method in k (arXiv 2206.00364, algorithm 1): the mean of the slopes at both ends of the step."""
    for a, b in steps:
        if b.k == 0 or a.k == math.inf:
            yield Row(a, first_order(a, b))
            continue
        half = b.alpha * (b.k - a.k) / 2
        yield Row(a, first_order(a, b), r1=b.alpha / a.alpha * X + half * implied_noise(a))
        yield Row(b, R1 + half * implied_noise(b), begins=False)


def dpm2(steps: Sequence[Step], *, ladder: Ladder) -> Iterator[Row]:
    """DPM-Solver-2 in k (arXiv 2206.00927; k-diffusion's form): the slope halfway in ln k, for the whole step."""
    return dpm2_a(steps, ladder=ladder, ancestral_eta=0.0)


def dpm2_a(steps: Sequence[Step], *, ladder: Ladder, ancestral_eta: float | int = 1.0) -> Iterator[Row]:
    """:func:`dpm2` to a level below, and noise back up.

    Args:
        steps: pairs of levels.
        ladder: gives the level halfway.
        ancestral_eta: 0 is deterministic, 1 adds as much noise as DDPM.
    """
    return _by_way_of_halfway(
        steps, ladder, ancestral_eta, lambda a, m, down: R1 / a.alpha + (down - a.k) * implied_noise(m)
    )


def dpmpp_2s_a(steps: Sequence[Step], *, ladder: Ladder, ancestral_eta: float | int = 1.0) -> Iterator[Row]:
    """DPM-Solver++(2S) (arXiv 2211.01095, algorithm 1, r = 1/2) to a level below, and noise back up.

    Args:
        steps: pairs of levels.
        ladder: gives the level halfway in λ.
        ancestral_eta: 0 is deterministic, 1 adds as much noise as DDPM.
    """
    return _by_way_of_halfway(
        steps, ladder, ancestral_eta, lambda a, m, down: down / a.sigma * R1 + (1 - down / a.k) * D
    )


def _by_way_of_halfway(
    steps: Sequence[Step], ladder: Ladder, ancestral_eta: float | int, whole_step: Callable[[Level, Level, float], Line]
) -> Iterator[Row]:
    """A first-order step to the level halfway in λ, then from where it began (R1) to k = down, and noise up to b.

    ``whole_step`` gives x / α after the second, from the levels at the beginning and halfway, and down.
    """
    for a, b in steps:
        down, up = ancestral_split(a, b, ancestral_eta)
        if down == 0 or a.k == math.inf:
            yield Row(a, b.alpha * (D + down * implied_noise(a) + up * Z))
            continue
        m = ladder.at_k(math.sqrt(a.k * down))
        yield Row(a, first_order(a, m), r1=X)
        yield Row(m, b.alpha * (whole_step(a, m, down) + up * Z), begins=False)


def dpmpp_2s(steps: Sequence[Step], *, solver: str = "midpoint") -> Iterator[Row]:
    """DPM-Solver++(2S) whose halfway levels are every second of the list (diffusers' single step solver of order 2).

    A step that is left over is of first order, and so is the last.

    Args:
        steps: pairs of levels; each is one call of the network.
        solver: ``midpoint`` or ``heun``: how D changes within two steps.
    """
    started: Level | None = None
    for i, (a, b) in enumerate(steps):
        if started is None or i == len(steps) - 1:
            yield Row(a, first_order(a, b), r1=D, r2=X)
            started = a if a.k < math.inf else None
            continue
        h, half = b.log_snr - started.log_snr, a.log_snr - started.log_snr
        weight = -math.expm1(-h) / 2 if solver == "midpoint" else math.expm1(-h) / h + 1
        slope = (D - R1) * (h / half)
        yield Row(a, b.sigma / started.sigma * R2 + b.alpha * (-math.expm1(-h) * R1 + weight * slope))
        started = None
