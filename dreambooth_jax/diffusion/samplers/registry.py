# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All samplers by name. A new one is a generator of rows and a line in ``SAMPLERS``."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from dreambooth_jax.diffusion.levels import Step
from dreambooth_jax.diffusion.samplers import (
    consistency,
    dpm_solver,
    first_order,
    linear_multistep,
    second_order,
    stochastic,
    unipc,
)
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.schedules.timesteps import (
    consistency_steps,
    fractional_steps,
    listed_steps,
    spared_steps,
    strided_steps,
    trajectory_steps,
)
from dreambooth_jax.diffusion.table import Row


class Habits(NamedTuple):
    """What a family of diffusers' schedulers does beside its method. Only its profile asks for them."""

    chosen_ends: bool = False
    """Karras's and other formulas go from the k of the first timestep to that of the last, not over all levels."""
    rounding: Mapping[str, Callable[[float], float]] = {}
    """What becomes of the timesteps of a formula before the network is told."""
    scaled_noise: bool = False
    """With trailing and linspace spacing, noise at the beginning is of standard deviation k in x / α, not √(1 + k²)."""
    final: str = "zero"
    """What the last step leads to: ``zero``, the data, or ``sigma_min``, the level of t = 0."""


class Sampler(NamedTuple):
    """What a name on the command line stands for."""

    rows: Callable[..., Iterator[Row]]
    """Pairs of levels, and settings as keywords, to rows. ``ladder`` and ``count`` are given to those that ask."""
    steps: Callable[[NoiseSchedule, int], list[Step]] = listed_steps
    """Which pairs of levels a number of steps stands for, where the model's own spacing picks them."""
    habits: Habits = Habits()


def _truncated(t: float) -> float:
    return float(int(t))


def _rounded(t: float) -> float:
    return float(np.round(t))


_IN_K = Habits(chosen_ends=True, scaled_noise=True)
_KDPM2 = _IN_K._replace(rounding={"karras": _rounded})
_DPM = Habits(rounding={"karras": _rounded, "exponential": _truncated, "beta": _truncated})
_multistep = dpm_solver.multistep

SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler(first_order.ddim, strided_steps),
    "ddpm": Sampler(first_order.ddpm),
    "euler": Sampler(first_order.euler, fractional_steps, _IN_K),
    "euler_a": Sampler(first_order.euler_a, fractional_steps, _IN_K),
    "heun": Sampler(second_order.heun, fractional_steps, _IN_K),
    "lms": Sampler(linear_multistep.lms, fractional_steps, _IN_K),
    "plms": Sampler(linear_multistep.plms, strided_steps),
    "ipndm": Sampler(linear_multistep.ipndm),
    "dpm2": Sampler(second_order.dpm2, fractional_steps, _KDPM2),
    "dpm2_a": Sampler(second_order.dpm2_a, fractional_steps, _KDPM2),
    "dpmpp_2s": Sampler(second_order.dpmpp_2s, spared_steps, _DPM),
    "dpmpp_2s_a": Sampler(second_order.dpmpp_2s_a, fractional_steps, _IN_K),
    "dpmpp_2m": Sampler(partial(_multistep, ancestral_eta=0.0), spared_steps, _DPM),
    "dpmpp_2m_sde": Sampler(_multistep, spared_steps, _DPM),
    "dpmpp_2m_sde_heun": Sampler(partial(_multistep, solver="heun"), spared_steps, _DPM),
    "dpmpp_3m_sde": Sampler(partial(_multistep, order=3, solver="heun"), spared_steps, _DPM),
    "dpmpp_sde": Sampler(stochastic.dpmpp_sde, fractional_steps, _IN_K),
    "unipc": Sampler(unipc.unipc, spared_steps, _DPM),
    "unipc_bh1": Sampler(partial(unipc.unipc, variant="bh1"), spared_steps, _DPM),
    "deis": Sampler(linear_multistep.deis, spared_steps, _DPM._replace(final="sigma_min")),
    "lcm": Sampler(consistency.lcm, consistency_steps),
    "tcd": Sampler(consistency.tcd, trajectory_steps),
}
