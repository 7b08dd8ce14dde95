# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Noise levels, as pairs: each step of a sampler leads from one level to another.

    x = α x_0 + σ ε,    α² + σ² = 1,    k = σ / α,    λ = −ln k

A timestep may be fractional; what lies between whole ones is interpolated by a :class:`Ladder`. All numbers are
float64, on the host.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64

from dreambooth_jax.diffusion.schedule import NoiseSchedule

Interpolation: TypeAlias = Literal["linear", "log", "log_alpha"]

FINITE_K = 4096.0
"""Where levels are spaced out in k, the place of a last level without any data, whose own k is infinite."""


class Level(NamedTuple):
    """How noisy x is."""

    t: float
    """The timestep, from 0 to T − 1, as the network is told it."""
    alpha: float
    """How much of the data is in x."""
    sigma: float
    """How much noise is in x."""

    @property
    def k(self) -> float:
        """σ / α, which k-diffusion calls sigma; infinite where x is noise alone."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def log_snr(self) -> float:
        """λ = ln(α / σ): half the logarithm of the signal-to-noise ratio; infinite at both ends."""
        if not self.alpha or not self.sigma:
            return -math.inf if not self.alpha else math.inf
        return math.log(self.alpha) - math.log(self.sigma)


Step = tuple[Level, Level]

CLEAN = Level(t=0.0, alpha=1.0, sigma=0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """All levels of a model: the T that it was trained with, and those between them."""

    alphas_cumprod: Float64[np.ndarray, "T"]
    """ᾱ_t, falling."""
    interpolation: Interpolation = "linear"
    """What changes linearly with t between whole timesteps: k (diffusers), ln k (k-diffusion) or ln α (UniPC)."""
    whole: bool = False
    """Whether the network is told the nearest whole timestep (ComfyUI) instead of a fraction."""

    @classmethod
    def of(cls, schedule: NoiseSchedule, *, interpolation: Interpolation = "linear", whole: bool = False) -> "Ladder":
        """That of a model's schedule."""
        bar = schedule.alphas_cumprod.astype(np.float64)
        return cls(alphas_cumprod=bar, interpolation=interpolation, whole=whole)

    @property
    def last(self) -> int:
        """T − 1."""
        return len(self.alphas_cumprod) - 1

    @cached_property
    def k(self) -> Float64[np.ndarray, "T"]:
        """k of all, rising; the last is :data:`FINITE_K` if it is infinite."""
        with np.errstate(divide="ignore"):
            return np.minimum(np.sqrt(1 / self.alphas_cumprod - 1), FINITE_K)

    def at(self, t: float | int) -> Level:
        """The level at a timestep in [0, T − 1]."""
        if t == int(t):
            bar = float(self.alphas_cumprod[int(t)])
            return Level(float(t), math.sqrt(bar), math.sqrt(1 - bar))
        near = math.floor(t) + np.arange(2)
        if self.interpolation == "log_alpha":
            alpha = math.exp(np.interp(t, near, np.log(self.alphas_cumprod[near])) / 2)
            return Level(float(t), alpha, math.sqrt(1 - alpha**2))
        k = np.interp(t, near, self.k[near])
        if self.interpolation == "log":
            k = math.exp(np.interp(t, near, np.log(self.k[near])))
        return self.at_k(k) if self.whole else _level(float(t), k)

    def at_k(self, k: float) -> Level:
        """The level of a k, and its timestep, which is linear in ln k whatever the interpolation."""
        if self.alphas_cumprod[-1] == 0 and k >= FINITE_K * (1 - 1e-9):
            return self.at(self.last)
        if self.whole:
            return _level(float(np.abs(np.log(self.k) - math.log(k)).argmin()), k)
        return _level(float(np.interp(math.log(k), np.log(self.k), np.arange(len(self.k)))), k)


def _level(t: float, k: float) -> Level:
    return Level(t, 1 / math.hypot(1, k), k / math.hypot(1, k))


def level_at(schedule: NoiseSchedule, t: float | int) -> Level:
    """The level at a timestep in [0, T − 1], linear in k between whole ones."""
    return Ladder.of(schedule).at(t)
