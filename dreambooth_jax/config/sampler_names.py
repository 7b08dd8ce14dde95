# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What diffusers, A1111 and ComfyUI call samplers and schedules, and what we call them.

A1111 once had both in one name, "DPM++ 2M Karras"; such names are understood, too.
"""

from collections.abc import Mapping
from typing import NamedTuple

SAMPLER_NAMES: Mapping[str, tuple[str, ...]] = {
    "ddim": ("DDIMScheduler", "DDIMParallelScheduler"),
    "ddpm": ("DDPMScheduler", "DDPMParallelScheduler"),
    "euler": ("k_euler", "EulerDiscreteScheduler"),
    "euler_a": ("k_euler_a", "k_euler_ancestral", "euler_ancestral", "EulerAncestralDiscreteScheduler"),
    "heun": ("k_heun", "HeunDiscreteScheduler"),
    "lms": ("k_lms", "LMSDiscreteScheduler"),
    "plms": ("pndm", "PNDMScheduler"),
    "ipndm": ("IPNDMScheduler",),
    "dpm2": ("k_dpm_2", "dpm_2", "KDPM2DiscreteScheduler"),
    "dpm2_a": ("k_dpm_2_a", "k_dpm_2_ancestral", "dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2s": ("DPM++ 2S", "DPMSolverSinglestepScheduler"),
    "dpmpp_2s_a": ("DPM++ 2S a", "k_dpmpp_2s_a", "dpmpp_2s_ancestral"),
    "dpmpp_2m": ("DPM++ 2M", "k_dpmpp_2m", "DPMSolverMultistepScheduler"),
    "dpmpp_2m_sde": ("DPM++ 2M SDE", "k_dpmpp_2m_sde", "dpmpp_2m_sde_gpu"),
    "dpmpp_2m_sde_heun": ("DPM++ 2M SDE Heun", "k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
    "dpmpp_3m_sde": ("DPM++ 3M SDE", "k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
    "dpmpp_sde": ("DPM++ SDE", "k_dpmpp_sde", "dpmpp_sde_gpu", "DPMSolverSDEScheduler"),
    "unipc": ("uni_pc_bh2", "UniPCMultistepScheduler"),
    "unipc_bh1": ("uni_pc",),
    "deis": ("DEISMultistepScheduler",),
    "lcm": ("k_lcm", "LCMScheduler"),
    "tcd": ("TCDScheduler",),
    "model": (),
}
"""All samplers, and other names of each; ``model`` is the one of the model's own file."""

SCHEDULE_NAMES: Mapping[str, tuple[str, ...]] = {
    "model": ("automatic",),
    "leading": (),
    "trailing": (),
    "linspace": (),
    "karras": ("ka",),
    "exponential": ("exp",),
    "polyexponential": ("polyexp",),
    "uniform": ("normal",),
    "sgm_uniform": ("sgmuniform",),
    "simple": (),
    "ddim_uniform": (),
    "beta": (),
    "align_your_steps": ("ays",),
    "align_your_steps_xl": ("ays_xl",),
}
"""All schedules, and other names of each."""


class Named(NamedTuple):
    """What a text names."""

    sampler: str
    """One of ``SAMPLER_NAMES``, or the text if it is no name."""
    schedule: str | None = None
    """One of ``SCHEDULE_NAMES``, if the text named one."""


def read_sampler(text: str) -> Named:
    """The sampler that a text names, and the schedule if it names both."""
    plain = _plain(text)
    if plain in _SAMPLERS:
        return Named(_SAMPLERS[plain])
    for name in sorted(_SCHEDULES, key=len, reverse=True):
        before = plain.removesuffix(f"_{name}")
        if before != plain and before in _SAMPLERS:
            return Named(_SAMPLERS[before], _SCHEDULES[name])
    return Named(text)


def read_schedule(text: str) -> str:
    """The schedule that a text names, or the text if it is no name."""
    return _SCHEDULES.get(_plain(text), text)


def _plain(text: str) -> str:
    """Without what spellings differ in."""
    words = text.strip().casefold().replace("++", "pp").replace("-", " ").replace("_", " ").split()
    return "_".join(words).removeprefix("flax")


def _index(names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {_plain(name): one for one, others in names.items() for name in (one, *others)}


_SAMPLERS, _SCHEDULES = _index(SAMPLER_NAMES), _index(SCHEDULE_NAMES)
