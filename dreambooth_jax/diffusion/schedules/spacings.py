# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Schedules that are formulas: a number of levels between the noisiest and the least noisy.

Each takes the model's :class:`Ladder`, a number and the k of both ends, and gives k or timesteps, from noise on. What
follows the last is the data, k = 0, which is not among them. A new one is a function here and a line in ``SPACINGS``.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import betaincinv

from dreambooth_jax.diffusion.levels import Ladder, Level

Numbers = Float64[np.ndarray, "n"]

ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""k of ten steps of Stable Diffusion 1.5 (arXiv 2404.14507)."""
ALIGN_YOUR_STEPS_XL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
"""k of ten steps of Stable Diffusion XL."""


class Ends(NamedTuple):
    """k of the noisiest and of the least noisy level."""

    largest: float
    smallest: float


def karras(ladder: Ladder, n: int, ends: Ends, *, rho: float = 7.0) -> Numbers:
    """k^(1/ρ) falls evenly (arXiv 2206.00364, equation 5)."""
    return np.linspace(ends.largest ** (1 / rho), ends.smallest ** (1 / rho), n) ** rho


def exponential(ladder: Ladder, n: int, ends: Ends) -> Numbers:
    """ln k falls evenly, so that λ rises evenly, as in DPM-Solver (arXiv 2206.00927)."""
    return np.exp(np.linspace(math.log(ends.largest), math.log(ends.smallest), n))


def polyexponential(ladder: Ladder, n: int, ends: Ends, *, rho: float = 1.0) -> Numbers:
    """ln k falls as a power of the step (k-diffusion); A1111's ρ = 1 makes it :func:`exponential`."""
    low, high = math.log(ends.smallest), math.log(ends.largest)
    return np.exp(np.linspace(1, 0, n) ** rho * (high - low) + low)


def beta(ladder: Ladder, n: int, ends: Ends, *, a: float = 0.6) -> Numbers:
    """k is spread as Beta(a, a) is: more at both ends (arXiv 2407.12173, as diffusers and A1111 read it)."""
    return ends.smallest + betaincinv(a, a, 1 - np.linspace(0, 1, n)) * (ends.largest - ends.smallest)


def align_your_steps(ladder: Ladder, n: int, ends: Ends, *, known: tuple[float, ...] = ALIGN_YOUR_STEPS) -> Numbers:
    """Optimised for a model (arXiv 2404.14507); other numbers of steps interpolate ln k."""
    return np.exp(np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(known)), np.log(known)))


def uniform(ladder: Ladder, n: int, ends: Ends) -> Numbers:
    """Timesteps fall evenly to the smallest k."""
    return np.linspace(ladder.at_k(ends.largest).t, ladder.at_k(ends.smallest).t, n)


def sgm_uniform(ladder: Ladder, n: int, ends: Ends) -> Numbers:
    """Timesteps fall evenly, as far as the smallest k is one step further."""
    return uniform(ladder, n + 1, ends)[:-1]


def simple(ladder: Ladder, n: int, ends: Ends) -> Numbers:
    """Whole timesteps, evenly from the last one on, rounded up."""
    count = ladder.last + 1
    return count - 1 - np.floor(np.arange(n) * (count / n))


def ddim_uniform(ladder: Ladder, n: int, ends: Ends) -> Numbers:
    """Every (T // n)-th timestep from 1 on, as CompVis's DDIM; there may be more than n."""
    return np.arange(1, ladder.last + 1, max((ladder.last + 1) // n, 1))[::-1].astype(np.float64)


def beta_timesteps(ladder: Ladder, n: int, ends: Ends, *, a: float = 0.6) -> Numbers:
    """Timesteps are spread as Beta(a, a) is, rounded, each once (ComfyUI's reading); there may be fewer than n."""
    chosen = np.rint(betaincinv(a, a, 1 - np.linspace(0, 1, n, endpoint=False)) * ladder.last)
    return np.unique(chosen)[::-1]


class Spacing(NamedTuple):
    """What the name of a schedule stands for."""

    numbers: Callable[[Ladder, int, Ends], Numbers]
    of_timesteps: bool = False
    """Whether the numbers are timesteps instead of k."""

    def levels(self, ladder: Ladder, n: int, ends: Ends) -> list[Level]:
        """From noise on."""
        numbers = self.numbers(ladder, n, ends).tolist()
        return [ladder.at(t) for t in numbers] if self.of_timesteps else [ladder.at_k(k) for k in numbers]


SPACINGS: Mapping[str, Spacing] = {
    "karras": Spacing(karras),
    "exponential": Spacing(exponential),
    "polyexponential": Spacing(polyexponential),
    "uniform": Spacing(uniform, of_timesteps=True),
    "sgm_uniform": Spacing(sgm_uniform, of_timesteps=True),
    "simple": Spacing(simple, of_timesteps=True),
    "ddim_uniform": Spacing(ddim_uniform, of_timesteps=True),
    "beta": Spacing(beta),
    "align_your_steps": Spacing(align_your_steps),
    "align_your_steps_xl": Spacing(partial(align_your_steps, known=ALIGN_YOUR_STEPS_XL)),
}
