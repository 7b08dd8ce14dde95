# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers of the stochastic differential equation that call the network twice in a step."""

import math
from collections.abc import Iterator, Sequence

from dreambooth_jax.diffusion.levels import Ladder, Step
from dreambooth_jax.diffusion.samplers.first_order import ancestral_split, implied_noise
from dreambooth_jax.diffusion.table import R1, D, Row, X, Z


def dpmpp_sde(
    steps: Sequence[Step], *, ladder: Ladder, ancestral_eta: float | int = 1.0, r: float = 0.5
) -> Iterator[Row]:
    """DPM-Solver++ SDE (k-diffusion's ``sample_dpmpp_sde``; arXiv 2211.01095, section 5).

    The noise of the whole step and that up to the level within are of one Brownian path: of the part of its variance
    that they share, w², it is the same Z. Independent noises would lose an order.

    Args:
        steps: pairs of levels.
        ladder: gives the level within.
        ancestral_eta: 0 is deterministic, 1 adds as much noise as DDPM.
        r: where in λ the level within lies.
    """
    for a, b in steps:
        down, up = ancestral_split(a, b, ancestral_eta)
        if b.k == 0 or a.k == math.inf:
            yield Row(a, b.alpha * (D + down * implied_noise(a) + up * Z))
            continue
        m = ladder.at_k(a.k ** (1 - r) * b.k**r)
        within = ancestral_split(a, m, ancestral_eta)
        w = math.sqrt((a.k - m.k) / (a.k - b.k))
        gain = b.alpha * (1 - down / a.k)
        yield Row(
            a,
            x=m.alpha * (within.down / a.sigma * X + (1 - within.down / a.k) * D + within.up * Z),
            r1=b.alpha * (down / a.sigma * X + up * w * Z) + gain * (1 - 1 / (2 * r)) * D,
        )
        yield Row(m, R1 + gain / (2 * r) * D + b.alpha * up * math.sqrt(1 - w**2) * Z, begins=False)
