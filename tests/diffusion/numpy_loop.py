# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The loop that runs tables, in numpy and float64, so that thousands of runs compile nothing; and the Gaussian."""

import math
from itertools import pairwise

import numpy as np

from dreambooth_jax.diffusion.levels import Ladder, Level
from dreambooth_jax.diffusion.process import reading
from dreambooth_jax.diffusion.table import make_table

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEAN, STD = 0.7, 0.3
"""Of the data."""


def run_table(table, network, x, noises=None, *, rows=None):
    """The result of a run.

    Args:
        table: a SamplerTable.
        network: ``network(x, t)``.
        x: to begin with, as it is.
        noises: one for each row; zeros by default.
        rows: how many are run; all by default.
    """
    registers, numbers = [x, *3 * [np.zeros_like(x)]], table.rows
    for i in range(int(table.length) if rows is None else rows):
        prediction = network(registers[0], numbers.t[i])
        denoised = np.clip(numbers.p[i] * registers[0] + numbers.q[i] * prediction, -table.clip, table.clip)
        noise = np.zeros_like(x) if noises is None else noises[i]
        registers = list(np.tensordot(numbers.matrix[i], [*registers, denoised, prediction, noise], 1))
    return registers[0]


def table_of(rows, steps, *, kind="epsilon"):
    return make_table(rows, final=steps[-1][1], prediction_type=kind, clip=math.inf, size=0)


class Free(Ladder):
    """A ladder whose timesteps are k itself."""

    def at_k(self, k):
        return Level(k, 1 / math.hypot(1, k), k / math.hypot(1, k))


FREE = Free(alphas_cumprod=np.ones(1))


def steps_down(k):
    """Steps down a list of k, which is what the network is told."""
    return list(pairwise(map(FREE.at_k, k)))


def gaussian(level):
    """(slope, constant) of the best estimate of the data given x at a level."""
    gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    return gain, MEAN * (1 - gain * level.alpha)


def prediction(level, kind):
    """(slope, constant) of the best prediction."""
    slope, constant = gaussian(level)
    of_x0, of_x = reading("sample", kind, level.alpha, level.sigma)
    return of_x0 * slope + of_x, of_x0 * constant


def denoiser(kind="epsilon", at=FREE.at_k):
    """``network(x, t)`` for data from N(MEAN, STD²)."""

    def network(x, t):
        slope, constant = prediction(at(t), kind)
        return slope * x + constant

    return network


def exact(level, normal):
    """The probability flow maps quantile to quantile."""
    return level.alpha * MEAN + math.hypot(level.alpha * STD, level.sigma) * normal


def moments(table, *, kind="epsilon", at=FREE.at_k):
    """Mean and variance of the result, of Gaussian data, from the numbers of the table alone."""
    rows = table.rows
    first = Level(rows.t[0], rows.alpha[0], rows.sigma[0])
    mean, covariance = np.zeros(4), np.zeros((4, 4))
    mean[0], covariance[0, 0] = exact(first, 0.0), exact(first, 1.0) - exact(first, 0.0)
    covariance[0, 0] **= 2
    for i in range(int(table.length)):
        slope, constant = prediction(at(rows.t[i]), kind)
        m = rows.matrix[i]
        linear = m[:, :4].copy()
        linear[:, 0] += m[:, 4] * (rows.p[i] + rows.q[i] * slope) + m[:, 5] * slope
        mean = linear @ mean + (m[:, 4] * rows.q[i] + m[:, 5]) * constant
        covariance = linear @ covariance @ linear.T + np.outer(m[:, 6], m[:, 6])
    return mean[0], covariance[0, 0]
