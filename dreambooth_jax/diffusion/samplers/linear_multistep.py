# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers with memory of earlier ε: one call in each step.

    x' = α_b (x / α_a + ∫ ε dk) = F + α_b Σ_j c_j (ε_j − ε),    F the first order step

The integral from k_a to k_b is that of a polynomial through the last few ε. F needs no division by α, so that all start
from noise alone; what was seen there, at k = ∞, is not part of a polynomial.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dreambooth_jax.diffusion.levels import Ladder, Level, Step
from dreambooth_jax.diffusion.samplers.dpm_solver import FEW_STEPS
from dreambooth_jax.diffusion.samplers.first_order import first_order, implied_noise
from dreambooth_jax.diffusion.table import R1, R2, R3, Row, X

MEMORY = (R1, R2, R3)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


def _row(a: Level, b: Level, coefficients: Sequence[float]) -> Row:
    """A step with coefficients c_1, c_2, … of the ε of earlier steps."""
    noise = implied_noise(a)
    change = sum((c * (earlier - noise) for c, earlier in zip(coefficients, MEMORY)), np.zeros(7))
    return Row(a, first_order(a, b) + b.alpha * change, r1=noise, r2=R1, r3=R2)


def lms(steps: Sequence[Step], *, order: int = 4) -> Iterator[Row]:
    """The linear multistep method in k (Hairer, Nørsett & Wanner, III.5): the order grows from 1 at the first step.

    Args:
        steps: pairs of levels.
        order: at most, 1 to 4.
    """
    known: list[float] = []  # k of the level and of those before, the last one first
    for a, b in steps:
        known = [a.k, *(k for k in known if k < math.inf)][:order]
        yield _row(a, b, _integrals(known, a.k, b.k, measure=np.ones_like))


def deis(
    steps: Sequence[Step], *, order: int = 2, lower_order_final: bool = True, count: int | None = None
) -> Iterator[Row]:
    """DEIS with polynomials in ln k (arXiv 2204.13902, log-ρ); into the data the order is 1.

    Args:
        steps: pairs of levels.
        order: at most, 1 to 4.
        lower_order_final: whether runs of few steps end with orders 2 and 1.
        count: steps of the whole run, of which ``steps`` may be the end.
    """
    lowered = lower_order_final and (count or len(steps)) < FEW_STEPS
    known: list[float] = []
    for i, (a, b) in enumerate(steps):
        left = len(steps) - i
        most = 1 if b.k == 0 or (lowered and left == 1) else min(order, 2) if lowered and left == 2 else order
        known = [a.k, *(k for k in known if k < math.inf)][:order]
        logs = [math.log(k) for k in known[:most]]
        yield _row(a, b, _integrals(logs, logs[0], math.log(b.k), measure=np.exp) if most > 1 else [])


def _integrals(known: Sequence[float], start: float, end: float, *, measure: Callable) -> list[float]:
    """∫ L_j dk for all Lagrange polynomials L_j but the first, in u = k or ln k, by Gauss's rule.

    Args:
        known: u where ε is known.
        start: u of the step's beginning.
        end: u of its end.
        measure: dk/du.
    """
    if len(known) == 1 or not math.isfinite(start):
        return []
    u = (start + end) / 2 + (end - start) / 2 * _NODES
    weights = (end - start) / 2 * _WEIGHTS * measure(u)
    return [float(sum(weights * np.prod([(u - x) / (at - x) for x in known if x != at], axis=0))) for at in known[1:]]


ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the last ε, the newest first, for equal steps."""


def ipndm(steps: Sequence[Step], *, order: int = 4) -> Iterator[Row]:
    """Improved PNDM (arXiv 2204.13902, appendix): Adams-Bashforth's weights, which assume equal steps, in k.

    Into the data the order is 1.

    Args:
        steps: pairs of levels.
        order: at most, 1 to 4.
    """
    for i, (a, b) in enumerate(steps):
        yield _adams_bashforth(a, b, min(i + 1, order) if b.k else 1)


def plms(steps: Sequence[Step], *, ladder: Ladder) -> Iterator[Row]:
    """Pseudo linear multistep (arXiv 2202.09778): :func:`ipndm` whose first step is Heun's, of two calls.

    The second call is at the level where the second step begins, its half step comes from as far above it as the first
    step is long: the same place, unless the timesteps are uneven.

    Args:
        steps: pairs of levels; ε is what is averaged, whatever the network predicts.
        ladder: gives that place.
    """
    for i, (a, b) in enumerate(steps):
        if i > 0 or len(steps) == 1 or a.k == math.inf:
            yield _adams_bashforth(a, b, min(i + 1, 4))
            continue
        second = steps[1][0]
        above = a if second.t == b.t else ladder.at(second.t + a.t - b.t)
        half = second.alpha * (second.k - above.k) / 2
        noise = implied_noise(a)
        yield Row(a, first_order(a, b), r1=noise, r2=second.alpha / above.alpha * X + half * noise)
        yield Row(second, R2 + half * implied_noise(second), begins=False)


def _adams_bashforth(a: Level, b: Level, order: int) -> Row:
    if a.k == math.inf:
        return _row(a, b, [])
    return _row(a, b, [(b.k - a.k) * weight for weight in ADAMS_BASHFORTH[order - 1][1:]])
