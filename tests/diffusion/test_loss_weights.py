# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Weights of timesteps: closed forms, one meaning for all predictions, limits, and zero SNR."""

import numpy as np
import pytest

from dreambooth_jax.diffusion.loss_weights import loss_weights, signal_to_noise
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SNR = signal_to_noise(NoiseSchedule.from_config(SD).alphas_cumprod)
ZERO_SNR = signal_to_noise(NoiseSchedule.from_config({**SD, "rescale_betas_zero_snr": True}).alphas_cumprod)
KINDS = ("min_snr", "debiased", "p2")


def test_the_ratio_is_that_of_the_squared_coefficients():
    bar = NoiseSchedule.from_config(SD).alphas_cumprod.astype(np.float64)
    np.testing.assert_allclose(SNR, np.sqrt(bar) ** 2 / np.sqrt(1 - bar) ** 2, rtol=1e-12)
    assert ZERO_SNR[-1] == 0
    assert np.all(np.diff(SNR) < 0)


@pytest.mark.parametrize("gamma", [0.5, 5.0, 20.0])
def test_min_snr_is_the_papers(gamma):
    """Section 3.4 of arXiv 2303.09556, where v's divisor is SNR + 1, not 1 added to the weight."""
    of = {kind: loss_weights("min_snr", SNR, kind, snr_gamma=gamma) for kind in ("epsilon", "v_prediction", "sample")}
    np.testing.assert_allclose(of["epsilon"], np.minimum(SNR, gamma) / SNR, rtol=1e-12)
    np.testing.assert_allclose(of["v_prediction"], np.minimum(SNR, gamma) / (SNR + 1), rtol=1e-12)
    np.testing.assert_allclose(of["sample"], np.minimum(SNR, gamma), rtol=1e-12)


def test_debiased_and_p2_are_the_papers():
    np.testing.assert_allclose(
        loss_weights("debiased", SNR, "epsilon"), np.where(SNR < 1000, 1 / np.sqrt(SNR), 1000**-0.5), rtol=1e-12
    )
    np.testing.assert_allclose(
        loss_weights("p2", SNR, "epsilon", p2_gamma=0.5, p2_k=2.0), 1 / (2 + SNR) ** 0.5, rtol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_costs_the_same_whatever_is_predicted(kind):
    """An error in x_0 is one of ε and of v: at the same noisy x, ε̂ − ε = −(α/σ)(x̂ − x), v̂ − v = −(x̂ − x)/σ."""
    bar = SNR / (1 + SNR)
    alpha, sigma, error = np.sqrt(bar), np.sqrt(1 - bar), 0.3
    of = {one: loss_weights(kind, SNR, one) for one in ("epsilon", "v_prediction", "sample")}
    cost = of["sample"] * error**2
    np.testing.assert_allclose(of["epsilon"] * (alpha / sigma * error) ** 2, cost, rtol=1e-9)
    np.testing.assert_allclose(of["v_prediction"] * (error / sigma) ** 2, cost, rtol=1e-9)


def test_limits_are_the_plain_loss():
    np.testing.assert_allclose(loss_weights("min_snr", SNR, "epsilon", snr_gamma=1e30), 1, rtol=1e-12)
    np.testing.assert_allclose(loss_weights("p2", SNR, "epsilon", p2_gamma=0.0), 1, rtol=1e-12)
    np.testing.assert_allclose(loss_weights("p2", SNR, "sample", p2_gamma=0.0), SNR, rtol=1e-12)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_snr_is_finite(kind, prediction):
    weights = loss_weights(kind, ZERO_SNR, prediction)
    assert np.isfinite(weights).all()
    assert np.float32(weights[-1]) == 0  # x_0 cannot be told from nothing but noise
    below = np.array([ZERO_SNR[-2] * 1e-6])
    np.testing.assert_allclose(weights[-1], loss_weights(kind, below, prediction)[0], atol=1e-4)


def test_zero_snr_of_epsilon_has_its_limit_or_is_refused():
    assert loss_weights("min_snr", ZERO_SNR, "epsilon")[-1] == 1
    assert loss_weights("p2", ZERO_SNR, "epsilon", p2_k=2.0)[-1] == pytest.approx(0.5)
    with pytest.raises(InputError, match="debiased of a model that predicts epsilon is infinite at timestep 999"):
        loss_weights("debiased", ZERO_SNR, "epsilon")
    trained = np.arange(1000) < 999
    assert np.isfinite(loss_weights("debiased", ZERO_SNR, "epsilon", trained=trained)).all()


def test_no_noise_at_all_is_finite():
    for kind in KINDS:
        assert np.isfinite(loss_weights(kind, np.array([np.inf, 1.0]), "epsilon")).all()
