# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion.loss_weights import signal_to_noise
from dreambooth_jax.diffusion.penalties import PENALTIES, deltas, huber, smooth_l1
from dreambooth_jax.diffusion.schedule import NoiseSchedule

ERRORS = np.random.default_rng(0).normal(size=(3, 4, 4, 2)) * np.array([1e-3, 1.0, 1e3]).reshape(3, 1, 1, 1)


def cost(penalty, delta):
    with jax.enable_x64(True):
        return np.asarray(penalty(jnp.asarray(ERRORS), jnp.asarray(delta)))


def test_closed_forms():
    delta = np.array([0.1, 0.5, 2.0])
    d = delta.reshape(3, 1, 1, 1)
    np.testing.assert_allclose(cost(huber, delta), 2 * d * (np.sqrt(ERRORS**2 + d**2) - d), rtol=1e-6)
    np.testing.assert_allclose(cost(smooth_l1, delta), 2 * (np.sqrt(ERRORS**2 + d**2) - d), rtol=1e-6)


def test_limits_are_the_square_and_the_magnitude():
    np.testing.assert_allclose(cost(huber, np.full(3, 1e8)), ERRORS**2, rtol=1e-9)
    np.testing.assert_allclose(cost(smooth_l1, np.full(3, 1e-12)), 2 * np.abs(ERRORS), rtol=1e-6)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_finite_and_bounded_where_an_error_is_large(name):
    gradient = jax.grad(lambda e: jnp.sum(PENALTIES[name](e, jnp.full(1, 0.1))))
    values = gradient(jnp.array([[0.0, 1e-30, 1.0, 1e6, -1e6]]))
    assert np.isfinite(values).all()
    assert values[0, 0] == 0
    np.testing.assert_allclose(np.abs(values[0, 3:]), 0.2 if name == "huber" else 2.0, rtol=1e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_schedules_fall_from_one_to_delta(zero_snr):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    snr = signal_to_noise(NoiseSchedule.from_config({**config, "rescale_betas_zero_snr": zero_snr}).alphas_cumprod)
    assert set(deltas("constant", 0.1, snr)) == {0.1}
    exponential, of_snr = (deltas(kind, 0.1, snr) for kind in ("exponential", "snr"))
    for found in (exponential, of_snr):
        assert np.all(np.diff(found) < 0)
        assert np.all((found >= 0.1) & (found <= 1))
    assert exponential[0] == 1
    assert of_snr[-1] == pytest.approx(0.1, abs=0.01)
    if zero_snr:
        assert of_snr[-1] == 0.1
    sigma = 1 / np.sqrt(snr[:999])
    np.testing.assert_allclose(of_snr[:999], 0.9 / (1 + sigma) ** 2 + 0.1, rtol=1e-12)
    np.testing.assert_allclose(exponential, np.exp(np.log(0.1) / 1000 * np.arange(1000)), rtol=1e-12)
