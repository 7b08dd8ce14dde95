# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers as numbers: a row for each call of the network, which :mod:`~dreambooth_jax.diffusion.loop` runs.

    D = clip(p X + q N),    (X, R1, R2, R3)  ←  M (X, R1, R2, R3, D, N, Z)

X is x = α x_0 + σ ε, N what the network says about it, D the denoised x_0 that follows, Z fresh normal noise. R1 to R3
are what a method remembers: x of a step's beginning, earlier D or ε. They are 0 at first. A sampler is a generator of
rows whose lines are written as its paper writes them, in the names below:

    Row(a, b.alpha * D + b.sigma * E)                  # DDIM, from level a to level b

E is the noise that the network sees. Of N it is linear, as D is, so rows know nothing of what the network predicts.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int

from dreambooth_jax.diffusion.levels import Level
from dreambooth_jax.diffusion.process import reading
from dreambooth_jax.diffusion.schedule import PredictionType

Line: TypeAlias = np.ndarray
"""A linear expression in X, R1, R2, R3, D, E and Z: its seven float64 coefficients."""

X, R1, R2, R3, D, E, Z = np.eye(7)


class Row(NamedTuple):
    """One call of the network, at the level that X has, and what becomes of the registers."""

    level: Level
    x: Line
    r1: Line = R1
    r2: Line = R2
    r3: Line = R3
    begins: bool = True
    """Whether a step begins here: not at its second call of the network."""


class Rows(NamedTuple):
    """Rows as arrays; one row where they are indexed."""

    t: Float[np.ndarray | Array, "*rows"]
    """The timestep that the network is told; may be fractional."""
    alpha: Float[np.ndarray | Array, "*rows"]
    """α of X on entry."""
    sigma: Float[np.ndarray | Array, "*rows"]
    """σ of X on entry."""
    p: Float[np.ndarray | Array, "*rows"]
    """D is p X + q N."""
    q: Float[np.ndarray | Array, "*rows"]
    matrix: Float[np.ndarray | Array, "*rows 4 7"]
    """(X, R1, R2, R3) of (X, R1, R2, R3, D, N, Z)."""
    step: Float[np.ndarray | Array, "*rows"]
    """The step, from 0, that the row belongs to."""

    def at(self, i: int | Int[Array, ""]) -> "Rows":
        """Row i."""
        return Rows(*(column[i] for column in self))


class SamplerTable(NamedTuple):
    """All that a sampler is, padded so that tables of any sampler and number of steps have the same shapes."""

    length: Int[np.ndarray | Array, ""]
    """How many rows are calls of the network. Those that follow change nothing and have the level of the result."""
    clip: Float[np.ndarray | Array, ""]
    """Largest |D|; infinite where it is not clipped."""
    noise: Float[np.ndarray | Array, ""]
    """Standard deviation of x where a run starts from noise alone: 1, or what some tool takes."""
    rows: Rows


def make_table(
    rows: Iterable[Row], *, final: Level, prediction_type: PredictionType, clip: float, size: int
) -> SamplerTable:
    """The table of some rows, in float64.

    Args:
        rows: in the order in which they are run.
        final: the level of the result.
        prediction_type: what the network predicts. Levels of α = 0 need v or x_0: ε tells nothing there.
        clip: largest |D|, or infinity.
        size: of the padded table; one of more rows is as long as it must be.
    """
    rows = list(rows)
    steps = np.cumsum([row.begins for row in rows], dtype=np.float64) - 1
    numbers = [(*_numbers(row, prediction_type), step) for row, step in zip(rows, steps)]
    nothing = (*final, 0.0, 0.0, np.eye(4, 7), steps[-1])
    length, missing = len(numbers), max(size - len(numbers), 1)
    columns = (
        np.concatenate([np.asarray(column, np.float64), np.repeat(np.asarray(one)[None], missing, axis=0)])
        for column, one in zip(zip(*numbers), nothing)
    )
    return SamplerTable(np.asarray(length, np.int32), np.asarray(clip, np.float64), np.ones(()), Rows(*columns))


def _numbers(row: Row, prediction_type: PredictionType) -> tuple[Any, ...]:
    """The columns of a row, with E put in words of X and N."""
    level = row.level
    q, p = reading(prediction_type, "sample", level.alpha, level.sigma)
    of_n, of_x = reading(prediction_type, "epsilon", level.alpha, level.sigma)
    matrix = np.stack([row.x, row.r1, row.r2, row.r3])
    epsilon = matrix[:, 5].copy()
    matrix[:, 5] = epsilon * of_n
    matrix[:, 0] += epsilon * of_x
    return *level, p, q, matrix
