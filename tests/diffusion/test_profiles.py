# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where tools differ though all are right: each rule in closed form; and what a model's file selects."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from dreambooth_jax.diffusion.levels import Ladder
from dreambooth_jax.diffusion.samplers import SAMPLERS, build_table, settings_of
from dreambooth_jax.diffusion.samplers.model_choice import choice_of
from dreambooth_jax.diffusion.samplers.profiles import PROFILES
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.schedules.spacings import ALIGN_YOUR_STEPS
from dreambooth_jax.errors import InputError
from tests.diffusion.numpy_loop import SD

PLAIN = NoiseSchedule.from_config(SD)
LADDER = Ladder.of(PLAIN)


def spaced(spacing):
    return NoiseSchedule.from_config({**SD, "timestep_spacing": spacing})


def k_of(table):
    n = int(table.length)
    return table.rows.sigma[:n] / table.rows.alpha[:n]


class TestFirstNoise:
    """The standard deviation of x where a run from noise begins."""

    def test_is_one_without_a_profile(self):
        for sampler in SAMPLERS:
            assert build_table(sampler, spaced("linspace"), 4).noise == 1

    @pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
    def test_of_diffusers(self, spacing):
        for sampler, in_k in (("ddim", False), ("dpmpp_2m", False), ("euler", True), ("heun", True)):
            table = build_table(sampler, spaced(spacing), 4, profile="diffusers")
            assert table.noise == (table.rows.sigma[0] if in_k and spacing != "leading" else 1)

    def test_of_a1111(self):
        for sampler in ("euler", "dpmpp_2m"):
            table = build_table(sampler, PLAIN, 4, profile="a1111")
            assert table.noise == table.rows.sigma[0] < 1
        for sampler in ("ddim", "plms", "unipc"):
            assert build_table(sampler, PLAIN, 4, profile="a1111").noise == 1

    def test_of_comfyui(self):
        assert build_table("euler", PLAIN, 4, profile="comfy").noise == 1
        table = build_table("euler", PLAIN, 4, profile="comfy", spacing="leading")
        assert table.noise == table.rows.sigma[0] < 1, "it does not begin with noise alone"


def test_comfyui_tells_the_network_the_nearest_timestep():
    table = build_table("euler", PLAIN, 9, profile="comfy", spacing="karras")
    k = k_of(table)
    nearest = np.abs(np.log(LADDER.k)[None] - np.log(k)[:, None]).argmin(1)
    np.testing.assert_array_equal(table.rows.t[:9], nearest)


def test_comfyui_spreads_timesteps_as_beta_is():
    table = build_table("euler", PLAIN, 9, profile="comfy", spacing="beta")
    t = np.rint(stats.beta.ppf(1 - np.linspace(0, 1, 9, endpoint=False), 0.6, 0.6) * 999)
    np.testing.assert_array_equal(table.rows.t[:9], t)
    k = build_table("euler", PLAIN, 9, spacing="beta")
    ends = LADDER.k[[0, -1]]
    np.testing.assert_allclose(
        k_of(k), ends[0] + stats.beta.ppf(1 - np.linspace(0, 1, 9), 0.6, 0.6) * (ends[1] - ends[0])
    )


def test_some_samplers_leave_out_the_least_noisy_level():
    for profile, sampler in (("a1111", "dpmpp_3m_sde"), ("comfy", "unipc")):
        table = build_table(sampler, PLAIN, 8, profile=profile, spacing="karras")
        ramp = np.linspace(LADDER.k[-1] ** (1 / 7), LADDER.k[0] ** (1 / 7), 9) ** 7
        assert table.length == 8
        np.testing.assert_allclose(k_of(table), ramp[:8])


def test_a1111_s_ddim_steps_as_compvis_did():
    """timesteps = 1, 51, …, 951; from each to the one below, and not below the first."""
    rows = build_table("ddim", PLAIN, 20, profile="a1111").rows
    np.testing.assert_array_equal(rows.t[:19], np.arange(951, 1, -50))
    assert rows.alpha[19] == math.sqrt(PLAIN.alphas_cumprod.astype(float)[1])
    assert build_table("ddim", PLAIN, 20, profile="a1111").length == 19
    assert build_table("ddim", PLAIN, 30, profile="a1111").length == 30


def test_align_your_steps_is_its_table():
    np.testing.assert_allclose(k_of(build_table("euler", PLAIN, 11, spacing="align_your_steps")), ALIGN_YOUR_STEPS)
    other = k_of(build_table("euler", PLAIN, 21, spacing="align_your_steps"))
    np.testing.assert_allclose(other[::2], ALIGN_YOUR_STEPS)
    np.testing.assert_allclose(other[1] ** 2, ALIGN_YOUR_STEPS[0] * ALIGN_YOUR_STEPS[1])


def test_every_sampler_goes_with_every_schedule_in_every_profile():
    for name, profile in PROFILES.items():
        for spacing in ("model", "leading", "trailing", "linspace", *profile.spacings):
            for sampler in SAMPLERS:
                table = build_table(sampler, PLAIN, 3, spacing=spacing, profile=name)
                assert np.isfinite(table.rows.matrix).all()
                assert 1 <= table.length <= 1000


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"spacing": "caress"}, "schedule = 'caress': choose one of model, leading, trailing, linspace, karras"),
        ({"profile": "invoke"}, "profile = 'invoke': choose one of diffusers, a1111, comfy"),
        ({"steps": 0, "spacing": "karras"}, "steps = 0"),
        ({"steps": 1001, "spacing": "karras"}, "steps = 1001"),
        ({"sampler": "lcm", "steps": 51}, "steps = 51: consistency samplers take 1 to 50"),
        ({"sampler": "dpmpp_2m", "steps": 1000}, "steps = 1000: this sampler takes 1 to 999"),
        ({"ancestral_eta": 0.5}, "ancestral_eta = 0.5: the sampler 'euler' has no such setting"),
    ],
)
def test_what_is_not_there_is_named(arguments, rule):
    with pytest.raises(InputError, match=f"^{rule}"):
        build_table(**{"sampler": "euler", "schedule": PLAIN, "steps": 8, **arguments})


def test_settings_are_those_that_users_tell():
    assert settings_of("ddim") == ("eta",)
    assert settings_of("dpmpp_2m_sde") == ("ancestral_eta",)
    assert settings_of("dpmpp_2m") == settings_of("unipc") == settings_of("heun") == ()
    assert settings_of("tcd") == ("gamma",)


class TestModelsFile:
    """``sampler=model``."""

    def test_keys_of_another_class_are_not_its_own(self):
        """Left over from a conversion: an ancestral sampler knows no Karras, DDIM no last sigma."""
        left_over = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
        for name in ("EulerAncestralDiscreteScheduler", "DDIMScheduler", "PNDMScheduler", "LCMScheduler"):
            choice = choice_of({"_class_name": name, "skip_prk_steps": True, **left_over})
            assert (choice.spacing, choice.final) == ("model", None)
        choice = choice_of({"_class_name": "HeunDiscreteScheduler", **left_over})
        assert (choice.spacing, choice.final) == ("karras", None)
        assert choice_of({"_class_name": "EulerDiscreteScheduler", **left_over})[2:4] == ("karras", "sigma_min")

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name = 'FlowMatch"),
            ({"_class_name": "PNDMScheduler"}, "skip_prk_steps = False of PNDMScheduler"),
            ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "algorithm_type"),
            ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1}, "lambda_min_clipped"),
            ({"_class_name": "UniPCMultistepScheduler", "solver_order": 7}, "solver_order = 7"),
            ({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": {}}, "final_sigmas_type"),
            ({"_class_name": "LCMScheduler", "timestep_scaling": "ten"}, "timestep_scaling = 'ten'"),
            ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": 3}, "disable_corrector = 3"),
            ({"_class_name": ["x"]}, "_class_name"),
        ],
    )
    def test_what_we_do_not_have_is_named_when_it_is_asked_for(self, content, named):
        schedule = NoiseSchedule.from_config({**SD, **content})
        build_table("ddim", schedule, 4)
        with pytest.raises(InputError, match=r"^scheduler_config.json: .*sampler=NAME$") as raised:
            build_table("model", schedule, 4)
        assert named in str(raised.value)

    def test_without_a_class_it_is_the_default(self):
        for ours, theirs in zip(build_table("model", PLAIN, 9).rows, build_table("ddim", PLAIN, 9).rows):
            np.testing.assert_array_equal(ours, theirs)

    def test_what_a_user_tells_counts_more(self):
        schedule = NoiseSchedule.from_config({**SD, "_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True})
        plain = build_table("euler", spaced("linspace"), 6, spacing="exponential", profile="diffusers")
        told = build_table("model", schedule, 6, spacing="exponential")
        np.testing.assert_array_equal(told.rows.matrix, plain.rows.matrix)


@pytest.mark.parametrize("sampler", ["euler", "euler_a", "ddim", "dpmpp_2m"])
def test_a_spacing_that_is_told_is_one_that_the_file_says(sampler):
    """The noise at the beginning, too."""
    told = build_table(sampler, NoiseSchedule.from_config(SD), 4, spacing="trailing", profile="diffusers")
    says = NoiseSchedule.from_config({**SD, "timestep_spacing": "trailing"})
    for one, other in zip(jax.tree.leaves(told), jax.tree.leaves(build_table(sampler, says, 4, profile="diffusers"))):
        np.testing.assert_array_equal(one, other)
