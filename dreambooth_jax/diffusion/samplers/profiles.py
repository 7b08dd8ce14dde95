# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What diffusers, A1111 and ComfyUI do differently where all are right, as data. Without a profile nothing is rounded.

Sources: ``set_timesteps`` and ``init_noise_sigma`` of diffusers' schedulers; A1111's ``sd_samplers_kdiffusion.py``,
``sd_samplers_timesteps.py`` and ``sd_schedulers.py``; ComfyUI's ``samplers.py`` and ``model_sampling.py``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from dreambooth_jax.diffusion.levels import Interpolation, Level, Step
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.schedules.spacings import SPACINGS, Spacing, beta_timesteps
from dreambooth_jax.diffusion.schedules.timesteps import compvis_steps, time_uniform_steps

ProfileName = Literal["diffusers", "a1111", "comfy"]


class Profile(NamedTuple):
    """How a tool goes about it."""

    interpolation: Interpolation = "linear"
    """Of levels between whole timesteps."""
    whole: bool = False
    """Whether the network is told whole timesteps only, the nearest."""
    habits: bool = False
    """Whether what a sampler's ``habits`` say is done."""
    own_spacing: bool = True
    """Whether the model's own spacing is the default schedule."""
    spacing_of: Mapping[str, str] = {}
    """The default schedule of samplers, where it is not ``other_spacing``."""
    other_spacing: str = "uniform"
    """That of all others, without ``own_spacing``."""
    steps_of: Mapping[str, Callable[[NoiseSchedule, int], list[Step]]] = {}
    """Samplers that pick their levels in a way of their own, unless a schedule is asked for."""
    spacings: Mapping[str, Spacing] = SPACINGS
    spared: frozenset[str] = frozenset()
    """Samplers that make a level more and leave out the least noisy one ("discard next-to-last sigma")."""
    options: Mapping[str, Mapping[str, Any]] = {}
    """Other defaults of samplers' options."""
    plain_noise: Callable[[str, Level, Level], bool] = lambda sampler, first, noisiest: True
    """Whether a run starts with noise of standard deviation 1, not σ of its first level, which is less. Both are
    approximations: x there also has a little of the data."""


_K_DIFFUSION = {name: {"lower_order_final": False} for name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun")}
_K_DIFFUSION["dpmpp_3m_sde"] = {"lower_order_final": False}
_UNIPC = ("unipc", "unipc_bh1")

PROFILES: Mapping[str | None, Profile] = {
    None: Profile(),
    "diffusers": Profile(habits=True),
    "a1111": Profile(
        interpolation="log",
        own_spacing=False,
        spacing_of={
            **dict.fromkeys(("dpm2", "dpm2_a", "dpmpp_2s", "dpmpp_2s_a", "dpmpp_2m", "dpmpp_sde"), "karras"),
            **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"), "exponential"),
        },
        steps_of={"ddim": compvis_steps, "plms": compvis_steps, **dict.fromkeys(_UNIPC, time_uniform_steps)},
        spared=frozenset({"dpm2", "dpm2_a", "dpmpp_3m_sde"}),
        options={**_K_DIFFUSION, **{name: {"order": 3, "variant": "bh1"} for name in _UNIPC}},
        plain_noise=lambda sampler, first, noisiest: sampler in ("ddim", "plms", *_UNIPC),
    ),
    "comfy": Profile(
        interpolation="log",
        whole=True,
        own_spacing=False,
        spacings={**SPACINGS, "beta": Spacing(beta_timesteps, of_timesteps=True)},
        spared=frozenset({"dpm2", "dpm2_a", "unipc", "unipc_bh1"}),
        options={**_K_DIFFUSION, "unipc": {"order": 3}, "unipc_bh1": {"order": 3}},
        plain_noise=lambda sampler, first, noisiest: first.k >= noisiest.k * (1 - 1e-5),
    ),
}
