# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How fast samplers converge to what is exact for Gaussian data, from the numbers of their tables."""

from functools import partial

import numpy as np
import pytest

from dreambooth_jax.diffusion.samplers import ddim, ddpm, euler, euler_a
from dreambooth_jax.diffusion.samplers.dpm_solver import multistep
from dreambooth_jax.diffusion.samplers.linear_multistep import deis, ipndm, lms, plms
from dreambooth_jax.diffusion.samplers.second_order import dpm2, dpm2_a, dpmpp_2s, dpmpp_2s_a, heun
from dreambooth_jax.diffusion.samplers.stochastic import dpmpp_sde
from dreambooth_jax.diffusion.samplers.unipc import unipc
from tests.diffusion.numpy_loop import FREE, denoiser, exact, moments, run_table, steps_down, table_of

KINDS = ("epsilon", "sample", "v_prediction")
COUNTS = (40, 80, 160)


def karras(n, smallest=0.05):
    return np.linspace(40 ** (1 / 7), smallest ** (1 / 7), n + 1) ** 7


def uneven(n):
    """Steps of changing length: a method whose weights are for equal steps loses its order."""
    u = np.linspace(0, 1, n + 1)
    ends = 40 ** (1 / 7), 0.05 ** (1 / 7)
    return (ends[0] + (ends[1] - ends[0]) * (u + 0.08 * np.sin(2 * np.pi * u))) ** 7


def found_order(method, *, kind="epsilon", k=karras):
    errors, normal = [], np.linspace(-2, 2, 9)
    for n in COUNTS:
        steps = steps_down(k(n))
        table = table_of(method(steps), steps, kind=kind)
        found = run_table(table, denoiser(kind), exact(steps[0][0], normal))
        errors.append(np.abs(found - exact(steps[-1][1], normal)).max())
    return np.log2(errors[-2] / errors[-1])


ORDERS = {
    "ddim": (ddim, 1),
    "euler": (euler, 1),
    "heun": (heun, 2),
    "dpm2": (partial(dpm2, ladder=FREE), 2),
    "dpmpp_2s": (dpmpp_2s, 2),
    "dpmpp_2s heun": (partial(dpmpp_2s, solver="heun"), 2),
    "dpmpp_2s_a": (partial(dpmpp_2s_a, ladder=FREE, ancestral_eta=0), 2),
    "dpmpp_sde": (partial(dpmpp_sde, ladder=FREE, ancestral_eta=0), 2),
    "dpmpp_2m": (partial(multistep, ancestral_eta=0), 2),
    "dpmpp_2m heun": (partial(multistep, ancestral_eta=0, solver="heun"), 2),
    "dpmpp_3m": (partial(multistep, ancestral_eta=0, order=3, solver="heun"), 2),  # half the weight of D'' is missing
    "lms 2": (partial(lms, order=2), 2),
    "lms 4": (lms, 4),
    "deis 2": (deis, 2),
    "deis 3": (partial(deis, order=3), 3),
    "plms": (partial(plms, ladder=FREE), 2),  # 4 if steps were equal in k
    "ipndm": (ipndm, 2),
    "unipc 1": (partial(unipc, order=1, lower_order_final=False), 2),
    "unipc 2": (partial(unipc, order=2, lower_order_final=False), 3),
    "unipc 3": (partial(unipc, order=3, lower_order_final=False), 4),
    "unipc bh1": (partial(unipc, order=2, variant="bh1", lower_order_final=False), 3),
    "unipc without corrector": (partial(unipc, order=2, lower_order_final=False, uncorrected=range(500)), 2),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    method, order = ORDERS[name]
    found = [found_order(method, kind=kind) for kind in KINDS]
    print(found)
    np.testing.assert_allclose(found, order, atol=0.2)


@pytest.mark.parametrize("name", ["dpmpp_2m", "deis 2", "lms 2", "unipc 2"])
def test_steps_of_unequal_length_cost_no_order(name):
    """The last step's length over this one's, not the reverse (k-diffusion#56)."""
    method, order = ORDERS[name]
    np.testing.assert_allclose(found_order(method, k=uneven), order, atol=0.25)


STOCHASTIC = {
    "ddim": (partial(ddim, eta=1.0), 1),
    "ddpm": (ddpm, 1),
    "euler_a": (euler_a, 1),
    "dpm2_a": (partial(dpm2_a, ladder=FREE), 2),
    "dpmpp_2s_a": (partial(dpmpp_2s_a, ladder=FREE), 2),
    "dpmpp_sde": (partial(dpmpp_sde, ladder=FREE), 2),
    "dpmpp_2m_sde": (multistep, 2),
    "dpmpp_2m_sde_heun": (partial(multistep, solver="heun"), 2),
    "dpmpp_3m_sde": (partial(multistep, order=3, solver="heun"), 2),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_variance_of_stochastic_samplers(name):
    """Without a draw: what the table does to the covariance of its registers."""
    method, order = STOCHASTIC[name]
    for kind in KINDS:
        errors = []
        for n in (20, *COUNTS):
            steps = steps_down(karras(n))
            mean, variance = moments(table_of(method(steps), steps, kind=kind), kind=kind)
            right = exact(steps[-1][1], 0.0), (exact(steps[-1][1], 1.0) - exact(steps[-1][1], 0.0)) ** 2
            np.testing.assert_allclose(mean, right[0], rtol=1e-3 if n == 20 else 1e-2)
            errors.append(abs(variance / right[1] - 1))
        print(errors, np.log2(errors[-2] / errors[-1]))
        assert errors[0] < 0.35
        np.testing.assert_allclose(np.log2(errors[-2] / errors[-1]), order, atol=0.3)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_moments_are_those_of_many_draws(name):
    """The propagation of covariances is right: a crowd of pictures has the same mean and variance."""
    steps = steps_down(karras(7))
    table = table_of(STOCHASTIC[name][0](steps), steps)
    random = np.random.default_rng(0)
    x = exact(steps[0][0], random.normal(size=20_000))
    found = run_table(table, denoiser(), x, random.normal(size=(int(table.length), 20_000)))
    mean, variance = moments(table)
    np.testing.assert_allclose([found.mean(), found.var()], [mean, variance], rtol=0.03)


class TestIdentities:
    """Methods that are one another, to the last digits, whatever the network says."""

    steps = steps_down(karras(9))

    def same(self, one, other, tolerance=1e-12):
        tables = [table_of(rows, self.steps) for rows in (one, other)]
        noises, x = np.random.default_rng(1).normal(size=(30, 5)), np.linspace(-1, 1, 5)
        results = [run_table(table, lambda x, t: np.sin(3 * x + t), x, noises) for table in tables]
        np.testing.assert_allclose(*results, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
    def test_ancestral_euler_is_ddim_with_noise(self, eta):
        self.same(euler_a(self.steps, ancestral_eta=eta), ddim(self.steps, eta=eta))

    def test_ddpm_is_the_first_order_of_the_stochastic_solver(self):
        self.same(ddpm(self.steps), multistep(self.steps, order=1))
        self.same(euler(self.steps), multistep(self.steps, order=1, ancestral_eta=0))

    def test_unipc_without_corrector_is_2m(self):
        predictor = unipc(self.steps, order=2, lower_order_final=False, uncorrected=range(9))
        self.same(predictor, multistep(self.steps, ancestral_eta=0, lower_order_final=False))

    def test_without_noise_ancestral_samplers_are_the_plain_ones(self):
        self.same(dpm2_a(self.steps, ladder=FREE, ancestral_eta=0), dpm2(self.steps, ladder=FREE))
        self.same(lms(self.steps, order=1), euler(self.steps))
        self.same(deis(self.steps, order=1), euler(self.steps))
        self.same(ipndm(self.steps, order=1), euler(self.steps))
