# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Defects that other implementations had or have, each with the place where it was told of: ours has none of them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dreambooth_jax.diffusion.levels import Ladder
from dreambooth_jax.diffusion.samplers import SAMPLERS, build_table
from dreambooth_jax.diffusion.samplers.dpm_solver import multistep
from dreambooth_jax.diffusion.samplers.profiles import PROFILES
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.schedules.spacings import SPACINGS
from dreambooth_jax.diffusion.schedules.strength import Part, part_of
from dreambooth_jax.errors import InputError
from tests.diffusion.numpy_loop import MEAN, SD, STD, denoiser, exact, moments, run_table, steps_down, table_of

PLAIN = NoiseSchedule.from_config(SD)
LINSPACE = NoiseSchedule.from_config({**SD, "timestep_spacing": "linspace"})
V = NoiseSchedule.from_config({**SD, "prediction_type": "v_prediction"})
ZERO_SNR = NoiseSchedule.from_config(
    {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
)
CONSISTENCY = ("lcm", "tcd")
ALL = [name for name in SAMPLERS if name not in CONSISTENCY]
TWO_CALLS = ("heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde")


def k_of(table):
    n = int(table.length)
    with np.errstate(divide="ignore"):
        return table.rows.sigma[: n + 1] / table.rows.alpha[: n + 1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_step_leads_down_and_the_last_to_the_data(spacing, profile):
    """A repeated last level was a step that did nothing, and left its noise (diffusers #5689, #6477, #7214)."""
    for steps in (1, 2, 3, 20, 50):
        k = k_of(build_table("euler", PLAIN, steps, spacing=spacing, profile=profile))
        assert np.all(np.diff(k) < 0)
        assert k[-1] == 0


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_3m_sde", "deis", "unipc"])
def test_short_runs_end_with_lower_orders(sampler):
    """Orders of 2 and 3 are unstable near t = 0 below 15 steps (k-diffusion#43, diffusers #5541, #6295)."""
    for steps, profile in ((10, None), (10, "diffusers"), (10, "a1111")):
        matrix = build_table(sampler, LINSPACE, steps, profile=profile).rows.matrix
        last = build_table(sampler, LINSPACE, steps, profile=profile, spacing="karras").rows.matrix[steps - 1]
        if sampler != "unipc":
            assert not last[0, 1:4].any(), "into the data nothing is remembered"
        if profile != "a1111":
            assert not matrix[steps - 2][0, 2:4].any() or sampler == "unipc"
    long = build_table("dpmpp_3m_sde", LINSPACE, 20).rows.matrix[18]
    assert long[0, 2], "longer runs keep their order"


def test_levels_that_share_a_timestep_are_told_apart():
    """Steps are found by number, not by timestep (diffusers #5687)."""
    whole = build_table("dpmpp_2m", PLAIN, 50, spacing="karras", profile="diffusers")
    assert len(set(whole.rows.t[:50])) < 50
    for start in (17, 48, 49):
        rest = build_table("dpmpp_2m", PLAIN, 50, spacing="karras", profile="diffusers", start=start)
        for column, part in zip(whole.rows[:3], rest.rows[:3]):
            np.testing.assert_array_equal(column[start:50], part[: 50 - start])


def test_timesteps_are_rounded_for_diffusers_alone():
    """The network is told the noise that there is, not that of the nearest timestep."""
    for spacing in ("karras", "exponential"):
        for sampler in ("euler", "dpmpp_2m"):
            table = build_table(sampler, PLAIN, 20, spacing=spacing)
            t, ladder = table.rows.t[1:19], Ladder.of(PLAIN)
            assert np.all(t != np.round(t))
            np.testing.assert_allclose(np.log(k_of(table)[1:19]), np.interp(t, np.arange(1000), np.log(ladder.k)))
    told = build_table("dpmpp_2m", PLAIN, 20, spacing="karras", profile="diffusers").rows.t
    np.testing.assert_array_equal(told, np.round(told))


def test_strength_is_each_tool_s_number_of_steps():
    """diffusers #7651, InvokeAI#889; A1111 runs one more than diffusers, ComfyUI as many as were asked for."""
    assert part_of(50, 0.75) == Part(50, 13)
    assert part_of(50, 0.75, profile="a1111") == Part(50, 12)
    assert part_of(50, 0.75, profile="comfy") == Part(66, 16)
    for profile in PROFILES:
        assert part_of(20, 1.0, profile=profile) == Part(20, 0)
        for strength in (0.01, 0.3, 0.999):
            steps, start = part_of(100, strength, profile=profile)
            assert 0 <= start < steps
    with pytest.raises(InputError, match="none of 10 steps"):
        part_of(10, 0.05)
    for strength in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match="strength"):
            part_of(10, strength)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc", "deis"])
def test_noise_is_added_at_the_level_of_the_table(sampler):
    """Of another α, noisy pictures were too bright (diffusers #5158)."""
    for start in (0, 7, 19):
        rows = build_table(sampler, PLAIN, 20, spacing="karras", start=start).rows
        np.testing.assert_allclose(rows.alpha[0] ** 2 + rows.sigma[0] ** 2, 1)
        ladder = Ladder.of(PLAIN)
        ramp = np.linspace(ladder.k[-1] ** (1 / 7), ladder.k[0] ** (1 / 7), 20)
        np.testing.assert_allclose(rows.sigma[0] / rows.alpha[0], ramp[start] ** 7)


@pytest.mark.parametrize("sampler", TWO_CALLS)
def test_a_run_that_starts_in_the_middle_starts_with_a_whole_step(sampler):
    """Cut between the two calls of a step, the result is noise (diffusers #3116)."""
    whole = build_table(sampler, PLAIN, 9)
    for start in range(9):
        table = build_table(sampler, PLAIN, 9, start=start)
        assert table.length == 2 * (9 - start) - 1
        assert not table.rows.matrix[0][0, 1:4].any(), "nothing is remembered yet"
        np.testing.assert_array_equal(table.rows.t[: table.length], whole.rows.t[2 * start : whole.length])


STOCHASTIC = (
    "ddpm",
    "euler_a",
    "dpm2_a",
    "dpmpp_2s_a",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "dpmpp_sde",
)


@pytest.mark.parametrize("sampler", ALL)
def test_the_end_of_a_run_leaves_no_noise(sampler):
    """Short runs from noisy pictures: LMS's order was taken from the number of the step (diffusers #5630)."""

    def error(name):
        table = build_table(name, LINSPACE, 40, start=34)
        mean, variance = moments(table, at=Ladder.of(LINSPACE).at)
        np.testing.assert_allclose(mean, MEAN, rtol=0.01)
        return abs(math.sqrt(variance) / STD - 1)

    assert error(sampler) <= 1.3 * error("ddpm" if sampler in STOCHASTIC else "euler")


class TestZeroSnr:
    """Noise alone at the last timestep, where α is 0, and not a small number in its place (diffusers #6024, #6187)."""

    @pytest.mark.parametrize("sampler", ALL)
    @pytest.mark.parametrize("spacing", ["model", "karras", "uniform"])
    def test_is_a_number_at_every_count(self, sampler, spacing):
        for steps in (1, 2, 3, 9):
            table = build_table(sampler, ZERO_SNR, steps, spacing=spacing)
            assert table.rows.alpha[0] == 0
            assert all(np.isfinite(column).all() for column in table.rows)

    @pytest.mark.parametrize("sampler", ALL)
    def test_noise_becomes_the_data(self, sampler):
        table = build_table(sampler, ZERO_SNR, 200)
        mean, variance = moments(table, kind="v_prediction", at=Ladder.of(ZERO_SNR).at)
        np.testing.assert_allclose(mean, MEAN, rtol=0.01)
        np.testing.assert_allclose(math.sqrt(variance), STD, rtol=0.1)

    @pytest.mark.parametrize("sampler", sorted({*ALL} - {*TWO_CALLS, "plms", "dpmpp_2s", "unipc", "unipc_bh1"}))
    def test_is_the_limit_of_schedules_with_a_little_data(self, sampler):
        """Of those that make as many calls, and no corrections, there too; memory fades with ln k alone."""

        def result(schedule):
            x, noises = np.linspace(-1, 1, 5), np.ones((9, 5))
            return run_table(build_table(sampler, schedule, 9), lambda x, t: np.sin(x + t / 300), x, noises)

        errors = []
        for little in (1e-7, 1e-36):
            bar = ZERO_SNR.alphas_cumprod.copy()
            bar[-1] = little
            errors.append(np.abs(result(replace(ZERO_SNR, alphas_cumprod=bar)) - result(ZERO_SNR)).max())
        assert errors[1] <= max(0.3 * errors[0], 1e-9)
        assert errors[1] < 5e-3

    def test_epsilon_is_refused(self):
        schedule = NoiseSchedule.from_config({**SD, "rescale_betas_zero_snr": True})
        for sampler in ALL:
            for spacing in ("trailing", "karras"):
                with pytest.raises(InputError, match="'epsilon' tells nothing"):
                    build_table(sampler, schedule, 20, spacing=spacing)


@pytest.mark.parametrize(
    "sampler", [*TWO_CALLS, "euler_a", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "ddpm"]
)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_last_step_adds_no_noise(sampler, profile):
    """It goes to the denoised data: DPM2 a left sharp noise (A1111#1435)."""
    for spacing in ("model", "karras"):
        table = build_table(sampler, PLAIN, 8, spacing=spacing, profile=profile)
        np.testing.assert_allclose(table.rows.matrix[int(table.length) - 1][0], np.eye(7)[4], atol=1e-9)


def test_2s_asks_again_halfway():
    """The second call is at √(k_a k_down), not at the end, and not into the data (stable-diffusion.cpp #56, #1435)."""
    table = build_table("dpmpp_2s_a", PLAIN, 5, spacing="karras", ancestral_eta=0.0)
    k = k_of(table)
    np.testing.assert_allclose(k[1:-2:2], np.sqrt(k[:-3:2] * k[2:-1:2]))
    assert table.length == 9


def test_the_table_is_in_float64():
    """Half precision of the scheduler's numbers was seen in pictures (diffusers #6024)."""
    table = build_table("dpmpp_2m", PLAIN, 20)
    assert {column.dtype for column in table.rows} == {np.dtype(np.float64)}


def test_the_third_order_s_curvature_has_its_sign():
    """diffusers subtracts a half where it is to be added: where D curves, that is worse than the second order."""
    errors = {}
    for order in (2, 3):
        steps = steps_down(np.geomspace(40, 0.05, 41))
        rows = multistep(steps, ancestral_eta=1.0, order=order, solver="heun")
        right = (exact(steps[-1][1], 1.0) - exact(steps[-1][1], 0.0)) ** 2
        errors[order] = abs(moments(table_of(rows, steps))[1] / right - 1)
    assert errors[3] < errors[2]


def test_unipc_of_either_kind_reaches_the_data():
    """bh1 was not a number at every step count."""
    for sampler in ("unipc", "unipc_bh1"):
        for steps in (1, 2, 3, 20):
            for spacing in ("model", "karras", "exponential"):
                table = build_table(sampler, PLAIN, steps, spacing=spacing)
                assert np.isfinite(table.rows.matrix).all()


def test_steps_of_no_length_are_harmless():
    """Karras to σ_min repeated the last level; order 3 divided by its length."""
    schedule = NoiseSchedule.from_config(
        {
            **SD,
            "_class_name": "DPMSolverMultistepScheduler",
            "solver_order": 3,
            "use_exponential_sigmas": True,
            "final_sigmas_type": "sigma_min",
        }
    )
    for steps in (3, 20, 50):
        table = build_table("model", schedule, steps)
        assert np.isfinite(table.rows.matrix).all()
        assert np.all(np.diff(k_of(table)) < 0)


def test_trailing_spacing_has_as_many_steps_as_were_asked_for():
    """``np.arange`` gives one more for 62 numbers of steps below 1000: 61, 103, 121, …"""
    schedule = NoiseSchedule.from_config({**SD, "timestep_spacing": "trailing"})
    for steps in range(1, 1001):
        timesteps = schedule.timesteps(steps)
        assert len(timesteps) == steps
        assert timesteps.min() >= 0


def test_plms_averages_noise_whatever_the_network_predicts():
    """An average of v at different levels is none of anything: of first order."""
    results = []
    for schedule, kind in ((PLAIN, "epsilon"), (V, "v_prediction")):
        table, at = build_table("plms", schedule, 30), Ladder.of(schedule).at
        results.append(run_table(table, denoiser(kind, at), exact(at(table.rows.t[0]), np.linspace(-2, 2, 5))))
    np.testing.assert_allclose(*results, rtol=1e-9)


def test_one_step_is_the_data_that_the_network_sees():
    """iPNDM gave 0, 2M SDE and 3M SDE of k-diffusion failed."""
    x = np.linspace(-1, 1, 5)
    network = lambda x, t: np.sin(3 * x)  # noqa: E731
    for sampler in ALL:
        table = build_table(sampler, PLAIN, 1, spacing="uniform")
        data = table.rows.p[0] * x + table.rows.q[0] * network(x, 0)
        np.testing.assert_allclose(run_table(table, network, x, np.ones((2, 5))), data, rtol=1e-9)


def test_ddim_and_plms_step_by_a_stride_and_others_to_the_next_timestep():
    schedule = NoiseSchedule.from_config({**SD, "timestep_spacing": "linspace"})
    t = schedule.timesteps(4)
    np.testing.assert_array_equal(t, [999, 666, 333, 0])
    bar = schedule.alphas_cumprod.astype(np.float64)
    for sampler, second in (("ddim", 999 - 250), ("plms", 666), ("ddpm", 666), ("euler", 666)):
        first = build_table(sampler, schedule, 4).rows.matrix[0][0, 4]
        lands = 999 - 250 if sampler in ("ddim", "plms") else second
        assert first + 1 != 1
        if sampler in ("ddim", "plms", "euler"):
            step = build_table(sampler, schedule, 4).rows
            reached = step.matrix[0][0] @ [step.alpha[0] + 0 * lands, 0, 0, 0, 1, 0, 0]
            np.testing.assert_allclose(reached, math.sqrt(bar[lands]))
