# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""DPM-Solver++ with memory of earlier D: one call in each step (arXiv 2211.01095, algorithm 2 and its SDE, section 5).

    H = (1 + η) h,    x' = (σ_b / σ_a) e^(−ηh) x + α_b (1 − e^(−H)) D + σ_b √(1 − e^(−2ηh)) z + correction

The correction is what the change of D adds, to second or third order.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dreambooth_jax.diffusion.levels import Level, Step
from dreambooth_jax.diffusion.table import R1, R2, D, Line, Row, X, Z

FEW_STEPS = 15
"""Runs of fewer steps than this are of lower order at their end (diffusers)."""


def multistep(
    steps: Sequence[Step],
    *,
    ancestral_eta: float | int = 1.0,
    order: int = 2,
    solver: str = "midpoint",
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    count: int | None = None,
) -> Iterator[Row]:
    """DPM-Solver++(2M), (3M) and their SDE.

    Args:
        steps: pairs of levels.
        ancestral_eta: η: 0 is deterministic, 1 adds as much noise as DDPM.
        order: 1 to 3. The third is the published one, whose error is still of second order.
        solver: ``midpoint`` or ``heun``: how D changes within a step of second order.
        lower_order_final: whether runs of few steps end with orders 2 and 1. Into the data the order is 1 anyway.
        euler_at_final: whether the last step is of order 1 in any case.
        count: steps of the whole run, of which ``steps`` may be the end.
    """
    lowered = lower_order_final and (count or len(steps)) < FEW_STEPS
    before: list[float] = []  # h of the steps before, the last one first
    for i, (a, b) in enumerate(steps):
        h, left = b.log_snr - a.log_snr, len(steps) - i
        most = min(order, 2) if lowered and left == 2 else order
        if b.k == 0 or (left == 1 and (lowered or euler_at_final)):
            most = 1
        x = _exponential_euler(a, b, ancestral_eta)
        if h != 0:
            x = x + b.alpha * _correction(h, before[: most - 1], ancestral_eta, solver)
        yield Row(a, x, r1=D, r2=R1)
        before = [h, *before][:2]


def _exponential_euler(a: Level, b: Level, eta: float | int) -> Line:
    """The step for a D that does not change; e^(−ηh) = 1 without η, however long the step."""
    h = b.log_snr - a.log_snr
    decay = eta * h if eta else 0.0
    added = math.sqrt(-math.expm1(-2 * decay))
    kept = b.sigma / a.sigma * math.exp(-decay)
    return kept * X - b.alpha * math.expm1(-h - decay) * D + b.sigma * added * Z


def _correction(h: float, before: Sequence[float], eta: float | int, solver: str) -> Line:
    """What follows from the D of one or two steps before, over α_b."""
    if not before:
        return np.zeros(7)
    length = (1 + eta) * h
    second = math.expm1(-length) / length + 1
    slope = (D - R1) * (h / before[0])
    if len(before) == 1:
        return (-math.expm1(-length) / 2 if solver == "midpoint" else second) * slope
    r0, r1 = before[0] / h, before[1] / h
    curvature = (slope - (R1 - R2) / r1) / (r0 + r1)
    return second * (slope + r0 * curvature) - (second / length - 0.5) * curvature
