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


def schedule_of(**config) -> NoiseSchedule:
    return NoiseSchedule.from_config({**SD, "timestep_spacing": "trailing", **config})


def gaussian_denoiser(schedule: NoiseSchedule, mean=MEAN, std=STD):
    """The best prediction there is for data from N(mean, std²)."""

    def denoise(x, t):
        alpha_bar = jnp.asarray(schedule.alphas_cumprod, x.dtype)[t]
        alpha, sigma = rates(alpha_bar, x)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return convert(x0, x, alpha_bar, source="sample", target=schedule.prediction_type)

    return denoise


def run(schedule, x, steps, *, eta=0.0, seed=0, denoise=None):
    keys = jax.random.split(jax.random.key(seed), len(x))
    return ddim(
        denoise or gaussian_denoiser(schedule),
        x,
        ddim_table(schedule, steps),
        prediction_type=schedule.prediction_type,
        eta=jnp.asarray(eta, jnp.float32),
        keys=keys,
    )


def marginal(schedule, normal, mean=MEAN, std=STD):
    """Noisy data at the last timestep: ᾱ_T is not quite 0, so they are not quite standard normal."""
    alpha, sigma = rates(jnp.asarray(schedule.alphas_cumprod[-1]), normal)
    return alpha * mean + jnp.sqrt(alpha**2 * std**2 + sigma**2) * normal


def test_noise_is_carried_to_the_data_along_the_flow(getkey):
    """The probability flow maps quantile to quantile; DDIM is its first order solver."""
    schedule = schedule_of()
    with jax.enable_x64(True):
        normal = jax.random.normal(getkey(), (1, 64), jnp.float64)
        exact = MEAN + STD * normal
        x = marginal(schedule, normal)
        errors = [float(jnp.abs(run(schedule, x, steps) - exact).max()) for steps in (10, 100, 1000)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_have_the_data_s_moments(getkey, eta):
    schedule = schedule_of()
    samples = run(schedule, marginal(schedule, jax.random.normal(getkey(), (8, 4096))), 500, eta=eta)
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(samples.std(), STD, atol=0.01)


@pytest.mark.parametrize("steps", [1, 8, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_one_datum_is_found_in_any_number_of_steps(getkey, steps, kind):
    schedule = schedule_of(prediction_type=kind)
    x = jax.random.normal(getkey(), (2, 4, 4, 3))
    found = run(schedule, x, steps, denoise=gaussian_denoiser(schedule, std=0.0))
    np.testing.assert_allclose(found, MEAN, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_the_prediction_s_form_does_not_matter(getkey, eta):
    x = jax.random.normal(getkey(), (2, 4, 4, 3))
    results = [run(schedule_of(prediction_type=kind), x, 20, eta=eta) for kind in KINDS]
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)
    np.testing.assert_allclose(results[2], results[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_starts_from_zero_snr(getkey, kind, eta):
    """All noise maps to the data's distribution, though the first step sees nothing of the data."""
    schedule = schedule_of(prediction_type=kind, rescale_betas_zero_snr=True)
    samples = run(schedule, jax.random.normal(getkey(), (4, 4096)), 200, eta=eta)
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(samples.std(), STD, atol=0.02)


def test_epsilon_cannot_start_from_zero_snr():
    with pytest.raises(InputError, match="epsilon"):
        ddim_table(schedule_of(rescale_betas_zero_snr=True), 20)
    ddim_table(schedule_of(rescale_betas_zero_snr=True, timestep_spacing="leading"), 20)


def test_clipping_bounds_the_result(getkey):
    schedule = schedule_of(clip_sample=True, clip_sample_range=0.5)
    samples = run(schedule, jax.random.normal(getkey(), (2, 64)), 20)
    assert jnp.abs(samples).max() <= 0.5
    assert jnp.abs(run(schedule_of(), jax.random.normal(getkey(), (2, 64)), 20)).max() > 0.5


def test_an_example_is_its_own_whatever_stands_beside_it(getkey):
    schedule = schedule_of()
    x = jax.random.normal(getkey(), (3, 4, 4, 2))
    keys = jax.random.split(getkey(), 3)
    sample = partial(ddim, gaussian_denoiser(schedule), prediction_type="epsilon", eta=jnp.float32(1))
    table = ddim_table(schedule, 10)
    together = sample(x, table, keys=keys)
    np.testing.assert_array_equal(sample(x[1:2], table, keys=keys[1:2]), together[1:2])
    assert not np.array_equal(together, sample(x, table, keys=keys[::-1]))


def test_steps_and_eta_compile_once(getkey):
    schedule = schedule_of()
    sample = jax.jit(partial(ddim, gaussian_denoiser(schedule), prediction_type="epsilon"))
    x, keys = jax.random.normal(getkey(), (2, 8)), jax.random.split(getkey(), 2)
    for steps, eta in ((1, 0.0), (20, 0.5), (1000, 1.0)):
        jitted = sample(x, ddim_table(schedule, steps), eta=jnp.float32(eta), keys=keys)
        eager = ddim(
            gaussian_denoiser(schedule),
            x,
            ddim_table(schedule, steps),
            prediction_type="epsilon",
            eta=jnp.float32(eta),
            keys=keys,
        )
        np.testing.assert_allclose(jitted, eager, atol=1e-5)
    assert sample._cache_size() == 1
