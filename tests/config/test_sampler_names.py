# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What users of other tools call samplers and schedules."""

import pytest

from dreambooth_jax.config import SamplingConfig, load_config
from dreambooth_jax.config.sampler_names import SAMPLER_NAMES, SCHEDULE_NAMES, read_sampler
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError

A1111 = {
    "Euler a": ("euler_a", "model"),
    "Euler": ("euler", "model"),
    "LMS Karras": ("lms", "karras"),
    "DPM2 a Karras": ("dpm2_a", "karras"),
    "DPM++ 2S a Karras": ("dpmpp_2s_a", "karras"),
    "DPM++ 2M": ("dpmpp_2m", "model"),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun Karras": ("dpmpp_2m_sde_heun", "karras"),
    "DPM++ 2M SGMUniform": ("dpmpp_2m", "sgm_uniform"),
    "DPM++ 2M SGM Uniform": ("dpmpp_2m", "sgm_uniform"),
    "Euler Align Your Steps": ("euler", "align_your_steps"),
    "k_dpmpp_2m_ka": ("dpmpp_2m", "karras"),
    "UniPC": ("unipc", "model"),
}
DIFFUSERS = {
    "EulerAncestralDiscreteScheduler": "euler_a",
    "FlaxDDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "KDPM2AncestralDiscreteScheduler": "dpm2_a",
}
COMFY = {
    "euler_ancestral": "euler_a",
    "dpm_2_ancestral": "dpm2_a",
    "dpmpp_2s_ancestral": "dpmpp_2s_a",
    "uni_pc": "unipc_bh1",
}
COMFY |= {"dpmpp_3m_sde_gpu": "dpmpp_3m_sde", "uni_pc_bh2": "unipc", "lcm": "lcm"}


@pytest.mark.parametrize("name", A1111)
def test_both_in_one_name(name):
    for spelling in (name, name.lower(), f" {name} "):
        config = SamplingConfig(sampler=spelling)
        assert (config.sampler, config.schedule) == A1111[name]


@pytest.mark.parametrize("name", [*DIFFUSERS, *COMFY])
def test_names_of_diffusers_and_comfyui(name):
    assert SamplingConfig(sampler=name).sampler == (DIFFUSERS | COMFY)[name]


def test_every_sampler_goes_with_every_schedule_in_one_name():
    for sampler in SAMPLER_NAMES:
        for schedule in SCHEDULE_NAMES:
            assert read_sampler(f"{sampler} {schedule}") == (sampler, schedule)
        assert read_sampler(sampler) == (sampler, None)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("Karras", "karras"), ("SGM Uniform", "sgm_uniform"), ("normal", "uniform"), ("Automatic", "model")],
)
def test_schedules_alone(name, schedule):
    assert SamplingConfig(schedule=name).schedule == schedule


def test_a_schedule_that_is_told_counts_more_than_one_in_a_name():
    assert SamplingConfig(sampler="DPM++ 2M Karras", schedule="exponential").schedule == "exponential"


def test_names_that_there_are_not_are_refused_with_those_that_there_are():
    for options, rule in (
        ({"sampler": "oiler"}, r"sampler = 'oiler': must be one of ddim, .*, model; did you mean euler\?$"),
        ({"schedule": "caress"}, r"schedule = 'caress': must be one of model, leading, "),
    ):
        with pytest.raises(InputError, match=rule):
            check_arguments(SamplingConfig(**options))
    with pytest.raises(InputError, match="profile"):
        SamplingConfig().changed({"profile": "invoke"})
    with pytest.raises(InputError, match="sampler = 3: must be a text"):
        SamplingConfig().changed({"sampler": 3})


def test_on_the_command_line_and_in_files():
    config = load_config(None, ["samples.sampler=DPM++ 2M Karras", "prior.sampler=Euler a", "prior.profile=a1111"])
    assert (config.samples.sampler, config.samples.schedule) == ("dpmpp_2m", "karras")
    assert (config.prior.sampler, config.prior.profile) == ("euler_a", "a1111")
