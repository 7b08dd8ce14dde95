# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion.process import convert, rates
from dreambooth_jax.diffusion.samplers import ddim, ddim_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEAN, STD = 0.7, 0.3
KINDS = ("epsilon", "sample", "v_prediction")


def gaussian_denoiser(schedule: NoiseSchedule, std: float = STD):
    """The best prediction there is for data from N(MEAN, std²)."""

    def denoise(x, t):
        alpha_bar = jnp.asarray(schedule.alphas_cumprod, x.dtype)[t]
        alpha, sigma = rates(alpha_bar, x)
        x0 = MEAN + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * MEAN)
        return convert(x0, x, alpha_bar, source="sample", target=schedule.prediction_type)

    return denoise


class Run:
    """DDIM of the Gaussian denoiser, compiled once for each shape."""

    def __init__(self, *, std: float = STD, **config):
        self.schedule = NoiseSchedule.from_config({**SD, "timestep_spacing": "trailing", **config})
        denoise = gaussian_denoiser(self.schedule, std)
        self.sample = jax.jit(partial(ddim, denoise, prediction_type=self.schedule.prediction_type))

    def __call__(self, x, steps, *, eta=0.0, keys=None):
        keys = jax.random.split(jax.random.key(0), len(x)) if keys is None else keys
        return self.sample(x, ddim_table(self.schedule, steps), eta=jnp.float32(eta), keys=keys)


@pytest.fixture(scope="module")
def plain():
    return Run()


def marginal(schedule, normal, mean=MEAN, std=STD):
    """Noisy data at the last timestep: ᾱ_T is not quite 0, so they are not quite standard normal."""
    alpha, sigma = rates(jnp.asarray(schedule.alphas_cumprod[-1]), normal)
    return alpha * mean + jnp.sqrt(alpha**2 * std**2 + sigma**2) * normal


def test_noise_is_carried_to_the_data_along_the_flow(plain, getkey):
    """The probability flow maps quantile to quantile; DDIM is its first order solver."""
    with jax.enable_x64(True):
        normal = jax.random.normal(getkey(), (1, 64), jnp.float64)
        exact = MEAN + STD * normal
        x = marginal(plain.schedule, normal)
        errors = [float(jnp.abs(plain(x, steps) - exact).max()) for steps in (10, 100, 1000)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_have_the_data_s_moments(plain, getkey, eta):
    samples = plain(marginal(plain.schedule, jax.random.normal(getkey(), (8, 4096))), 500, eta=eta)
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(samples.std(), STD, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_one_datum_is_found_in_any_number_of_steps(getkey, kind):
    run, x = Run(std=0.0, prediction_type=kind), jax.random.normal(getkey(), (2, 8))
    for steps in (1, 8, 50):
        np.testing.assert_allclose(run(x, steps), MEAN, atol=1e-4)


def test_the_form_of_the_prediction_does_not_matter(getkey):
    runs, x = [Run(prediction_type=kind) for kind in KINDS], jax.random.normal(getkey(), (2, 8))
    for eta in (0.0, 0.5):
        results = [run(x, 20, eta=eta) for run in runs]
        np.testing.assert_allclose(results[1], results[0], atol=1e-4)
        np.testing.assert_allclose(results[2], results[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_starts_from_zero_snr(getkey, kind):
    """Noise becomes data, though the first step sees nothing of the data."""
    run, x = Run(prediction_type=kind, rescale_betas_zero_snr=True), jax.random.normal(getkey(), (4, 4096))
    for eta in (0.0, 1.0):
        samples = run(x, 200, eta=eta)
        np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
        np.testing.assert_allclose(samples.std(), STD, atol=0.02)


def test_epsilon_cannot_start_from_zero_snr():
    config = {**SD, "rescale_betas_zero_snr": True}
    with pytest.raises(InputError, match="epsilon"):
        ddim_table(NoiseSchedule.from_config({**config, "timestep_spacing": "trailing"}), 20)
    ddim_table(NoiseSchedule.from_config({**config, "timestep_spacing": "leading"}), 20)


def test_clipping_bounds_the_result(plain, getkey):
    x = jax.random.normal(getkey(), (2, 64))
    assert jnp.abs(Run(clip_sample=True, clip_sample_range=0.5)(x, 20)).max() <= 0.5
    assert jnp.abs(plain(x, 20)).max() > 0.5


def test_an_example_is_its_own_whatever_stands_beside_it(plain, getkey):
    x, keys = jax.random.normal(getkey(), (3, 8)), jax.random.split(getkey(), 3)
    together = plain(x, 10, eta=1, keys=keys)
    np.testing.assert_array_equal(plain(x[1:2], 10, eta=1, keys=keys[1:2]), together[1:2])
    assert not np.array_equal(together, plain(x, 10, eta=1, keys=keys[::-1]))


def test_steps_eta_and_keys_compile_once(getkey):
    run, x = Run(), jax.random.normal(getkey(), (2, 8))
    results = [run(x, steps, eta=eta) for steps, eta in ((1, 0.0), (20, 0.0), (20, 0.5), (1000, 1.0))]
    results.append(run(x, 20, eta=0.5, keys=jax.random.split(getkey(), 2)))
    assert run.sample._cache_size() == 1
    assert len({result.tobytes() for result in map(np.asarray, results)}) == 5
