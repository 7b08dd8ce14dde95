# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers of models that were distilled to reach the data in a step or a few."""

import math
from collections.abc import Iterator, Sequence

from dreambooth_jax.diffusion.levels import Ladder, Step
from dreambooth_jax.diffusion.table import D, E, Row, X, Z

SIGMA_DATA = 0.5
"""Standard deviation of data that the parametrisation of consistency models assumes."""


def lcm(steps: Sequence[Step], *, timestep_scaling: float = 10.0) -> Iterator[Row]:
    """Latent consistency models (arXiv 2310.04378, algorithm 3): to the data, and noise back up to the next level.

    Args:
        steps: pairs of levels.
        timestep_scaling: how soon the network's answer takes the place of x, as t grows.
    """
    for a, b in steps:
        s = timestep_scaling * a.t
        norm = s**2 + SIGMA_DATA**2
        data = s / math.sqrt(norm) * D + SIGMA_DATA**2 / norm * X
        yield Row(a, b.alpha * data + b.sigma * Z)


def tcd(steps: Sequence[Step], *, ladder: Ladder, gamma: float | int = 0.3) -> Iterator[Row]:
    """Trajectory consistency distillation (arXiv 2402.19159, algorithm 4): strategic stochastic sampling.

    Each step goes along the flow to a level below the next, (1 − γ) of the way down to t = 0, and noise leads back up.

    Args:
        steps: pairs of levels.
        ladder: gives the levels below.
        gamma: 0 is deterministic, 1 goes to t = 0 in each step.
    """
    for a, b in steps:
        below = ladder.at(math.floor((1 - gamma) * b.t)) if b.t else b
        ratio = b.alpha / below.alpha
        flow = below.alpha * D + below.sigma * E
        yield Row(a, ratio * flow + math.sqrt(max(1 - ratio**2, 0)) * Z)
