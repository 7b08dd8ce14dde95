# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""UniPC (arXiv 2302.04867): a multistep predictor, and a corrector that needs no call of its own.

The D that is found at the end of a step corrects the step, and is then used for the next. So a row first puts together
what the row before prepared, x = R1 + w D, and leaves the same to the next.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from dreambooth_jax.diffusion.levels import Level, Step
from dreambooth_jax.diffusion.table import R1, R2, R3, D, Line, Row, X

Variant = Literal["bh1", "bh2"]


def unipc(
    steps: Sequence[Step],
    *,
    order: int = 2,
    variant: Variant = "bh2",
    lower_order_final: bool = True,
    uncorrected: Sequence[int] = (),
) -> Iterator[Row]:
    """UniPC for D (algorithms 5 to 8 of the paper).

    Args:
        steps: pairs of levels.
        order: of the predictor, 1 to 3; that of the whole is one more.
        variant: B(h) is h, or e^h − 1.
        lower_order_final: whether the order falls to 1 at the end; into the data it is 1 anyway.
        uncorrected: numbers of steps that are not corrected.
    """
    before: list[Level] = []
    corrected: float | None = None  # w, of the row before
    for i, (a, b) in enumerate(steps):
        x = X if corrected is None else R1 + corrected * D
        finite = [level for level in before if level.k < math.inf]
        most = 1 if b.k == 0 else min(order, len(steps) - i) if lower_order_final else order
        p = 1 if a.k == math.inf else min(most, len(finite) + 1)
        step = _solve(a, b, finite[: p - 1], variant)
        base = b.sigma / a.sigma * x - b.alpha * step.gain * D
        slopes = [(earlier - D) / r for earlier, r in zip((R2, R3), step.ratios)]
        predicted = base - b.alpha * step.scale * _weighted(step.predictor, slopes)
        corrected = None if i in uncorrected or a.k == math.inf or b.k == 0 else -b.alpha * step.scale * step.last
        prepared = base - b.alpha * step.scale * (_weighted(step.corrector, slopes) - step.last * D)
        yield Row(a, predicted, r1=R1 if corrected is None else prepared, r2=D, r3=R2)
        before = [a, *before][:2]


def _weighted(weights: Sequence[float], slopes: Sequence[Line]) -> Line:
    return sum((weight * slope for weight, slope in zip(weights, slopes)), np.zeros(7))


class _Solved(NamedTuple):
    """Numbers of a step of order p."""

    gain: float
    """e^H − 1, H = −h."""
    scale: float
    """B(H)."""
    ratios: Sequence[float]
    """r_1 … r_{p−1}: how far behind earlier levels lie, in steps."""
    predictor: Sequence[float]
    """Of their slopes, each D_j − D over r_j."""
    corrector: Sequence[float]
    """The same, where the D at the end is known."""
    last: float
    """Of the D at the end, less D."""


def _solve(a: Level, b: Level, before: Sequence[Level], variant: Variant) -> _Solved:
    """The weights that make the step exact for D that are polynomials in λ (theorem 3.1)."""
    h = b.log_snr - a.log_snr
    gain = math.expm1(-h)
    if not math.isfinite(h) or h == 0:  # out of noise alone, into the data, or nowhere
        return _Solved(gain, 0.0, [], [], [], 0.0)
    p, scale = len(before) + 1, -h if variant == "bh1" else gain
    ratios = [(level.log_snr - a.log_snr) / h for level in before]
    powers = np.vander([*ratios, 1.0], p, increasing=True).T
    rhs = np.asarray([math.factorial(j) * _phi(j + 1, -h) * -h / scale for j in range(1, p + 1)])
    predictor = [0.5] if p == 2 else np.linalg.solve(powers[:-1, :-1], rhs[:-1]).tolist() if p > 2 else []
    *corrector, last = np.linalg.solve(powers, rhs).tolist() if p > 1 else [0.5]
    return _Solved(gain, scale, ratios, predictor, corrector, last)


def _phi(n: int, z: float) -> float:
    """φ_n(z) = ∫₀¹ e^((1−s)z) s^(n−1) / (n−1)! ds; φ_n = (φ_{n−1} − 1/(n−1)!) / z, which a series replaces near 0."""
    if abs(z) < 0.5:
        return sum(z**k / math.factorial(k + n) for k in range(20))
    return math.expm1(z) / z if n == 1 else (_phi(n - 1, z) - 1 / math.factorial(n - 1)) / z
