# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of samplers, with the best denoiser of normal data, of which all is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.diffusion import loop
from dreambooth_jax.diffusion.levels import level_at
from dreambooth_jax.diffusion.loop import advance, begin, sample
from dreambooth_jax.diffusion.process import reading
from dreambooth_jax.diffusion.samplers import SAMPLERS, build_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEAN, STD = 0.7, 0.3
KINDS = ("epsilon", "sample", "v_prediction")


def level_of(schedule: NoiseSchedule, t, dtype):
    """α and σ at whole timesteps, and between them linear in k, as traced numbers."""
    bar = schedule.alphas_cumprod.astype(np.float64)
    alphas, sigmas = (jnp.asarray(np.sqrt(values), dtype) for values in (bar, 1 - bar))
    below, part = jnp.floor(t).astype(int), t - jnp.floor(t)
    alpha, sigma = alphas[below], sigmas[below]
    k = (1 - part) * sigma / alpha + part * sigmas[below + 1] / alphas[below + 1]
    whole = part == 0
    return jnp.where(whole, alpha, 1 / jnp.hypot(1, k)), jnp.where(whole, sigma, k / jnp.hypot(1, k))


def gaussian_denoiser(schedule: NoiseSchedule, std: float = STD):
    """The best prediction there is for data from N(MEAN, std²)."""

    def denoise(x, t):
        alpha, sigma = level_of(schedule, t, x.dtype)
        x0 = MEAN + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * MEAN)
        of_x0, of_x = reading("sample", schedule.prediction_type, alpha, sigma)
        return of_x0 * x0 + of_x * x

    return denoise


class Run:
    """The Gaussian denoiser with any sampler, compiled once for each shape."""

    def __init__(self, *, std: float = STD, **config):
        self.schedule = NoiseSchedule.from_config({**SD, "timestep_spacing": "trailing", **config})
        self.sample = jax.jit(partial(sample, gaussian_denoiser(self.schedule, std)))

    def __call__(self, x, steps, *, sampler="ddim", keys=None, **settings):
        keys = jax.random.split(jax.random.key(0), len(x)) if keys is None else keys
        return self.sample(x, build_table(sampler, self.schedule, steps, **settings), keys=keys)


@pytest.fixture(scope="module")
def plain():
    return Run()


def marginal(level, normal, mean=MEAN, std=STD):
    """Noisy data at a level. Even at the last timestep they are not quite standard normal: ᾱ_T is not quite 0."""
    return level.alpha * mean + np.hypot(level.alpha * std, level.sigma) * normal


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_noise_is_carried_to_the_data_along_the_flow(plain, getkey, sampler):
    """The probability flow maps quantile to quantile; these are its first order solvers."""
    with jax.enable_x64(True):
        normal = jax.random.normal(getkey(), (1, 64), jnp.float64)
        exact = MEAN + STD * normal
        x = marginal(level_at(plain.schedule, 999), normal)
        errors = [float(jnp.abs(plain(x, steps, sampler=sampler) - exact).max()) for steps in (10, 100, 1000)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01


EACH = [("ddim", {}), ("ddim", {"eta": 1.0}), *((name, {}) for name in SAMPLERS if name not in ("ddim", "lcm", "tcd"))]
"""All but those of consistency models, for which the best denoiser is none of them."""


@pytest.mark.parametrize(("steps", "start"), [(500, 0), pytest.param(998, 600, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("sampler", "settings"), EACH)
def test_samples_have_the_data_s_moments(plain, getkey, sampler, settings, steps, start):
    """From noise, and from noisy data at a level in the middle."""
    level = level_at(plain.schedule, int(plain.schedule.timesteps(steps)[start]))
    x = marginal(level, jax.random.normal(getkey(), (8, 2048)))
    samples = plain(x, steps, sampler=sampler, start=start, **settings)
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(samples.std(), STD, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_one_datum_is_found_in_any_number_of_steps(getkey, kind):
    run, x = Run(std=0.0, prediction_type=kind), jax.random.normal(getkey(), (2, 8))
    for sampler in SAMPLERS.keys() - {"tcd"}:  # which ends at t = 0, where there is a little noise
        for steps in (1, 8, 50):
            np.testing.assert_allclose(run(x, steps, sampler=sampler), MEAN, atol=1e-4)


def test_the_form_of_the_prediction_does_not_matter(getkey):
    runs, x = [Run(prediction_type=kind) for kind in KINDS], jax.random.normal(getkey(), (2, 8))
    for sampler, settings in [*EACH, ("ddim", {"eta": 0.5})]:
        results = [run(x, 20, sampler=sampler, **settings) for run in runs]
        np.testing.assert_allclose(results[1], results[0], atol=1e-4)
        np.testing.assert_allclose(results[2], results[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_starts_from_zero_snr(getkey, kind):
    """Noise becomes data, though the first step sees nothing of the data."""
    run, x = Run(prediction_type=kind, rescale_betas_zero_snr=True), jax.random.normal(getkey(), (4, 4096))
    for sampler, settings in EACH:
        samples = run(x, 200, sampler=sampler, **settings)
        np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
        np.testing.assert_allclose(samples.std(), STD, atol=0.02)


def test_epsilon_cannot_start_from_zero_snr():
    config = {**SD, "rescale_betas_zero_snr": True}
    with pytest.raises(InputError, match="epsilon"):
        build_table("ddim", NoiseSchedule.from_config({**config, "timestep_spacing": "trailing"}), 20)
    build_table("ddim", NoiseSchedule.from_config({**config, "timestep_spacing": "trailing"}), 20, start=1)
    build_table("ddim", NoiseSchedule.from_config({**config, "timestep_spacing": "leading"}), 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sampler": "oiler"}, "sampler = 'oiler': choose one of ddim, ddpm, euler"),
        ({"sampler": "ddpm", "eta": 1.0}, "eta = 1.0: the sampler 'ddpm' has no"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1001}, "steps = 1001"),
        ({"start": 20}, "start = 20"),
        ({"start": -1}, "start = -1"),
    ],
)
def test_what_is_not_there_is_named(plain, arguments, named):
    with pytest.raises(InputError, match=f"^{named}"):
        build_table(**{"sampler": "ddim", "schedule": plain.schedule, "steps": 20, **arguments})


def test_clipping_bounds_the_result(plain, getkey):
    x = jax.random.normal(getkey(), (2, 64))
    assert jnp.abs(Run(clip_sample=True, clip_sample_range=0.5)(x, 20)).max() <= 0.5
    assert jnp.abs(plain(x, 20)).max() > 0.5


def test_an_example_is_its_own_whatever_stands_beside_it(plain, getkey):
    x, keys = jax.random.normal(getkey(), (3, 8)), jax.random.split(getkey(), 3)
    together = plain(x, 10, eta=1, keys=keys)
    np.testing.assert_array_equal(plain(x[1:2], 10, eta=1, keys=keys[1:2]), together[1:2])
    assert not np.array_equal(together, plain(x, 10, eta=1, keys=keys[::-1]))


def test_ddpm_is_ddim_with_all_its_noise_and_euler_ddim_without(plain, getkey):
    """Where nothing is clipped, and each step leads to the next timestep visited."""
    with jax.enable_x64(True):
        x = jax.random.normal(getkey(), (2, 64), jnp.float64)
        for sampler, eta in (("ddpm", 1.0), ("euler", 0.0)):
            np.testing.assert_allclose(plain(x, 50, sampler=sampler), plain(x, 50, eta=eta), rtol=0, atol=1e-12)


def test_timesteps_may_be_fractional(getkey):
    """Linspace spacing of 8 steps: every 999 / 7 timesteps. A whole timestep has its own ᾱ, others are in between."""
    run = Run(timestep_spacing="linspace")
    table = build_table("euler", run.schedule, 8)
    np.testing.assert_allclose(table.rows.t[:8], np.arange(7, -1, -1) * 999 / 7, rtol=1e-6)
    assert not np.any(table.rows.t[1:7] == np.round(table.rows.t[1:7]))
    bar = run.schedule.alphas_cumprod[np.floor(table.rows.t[1:7]).astype(int) + np.asarray([[0], [1]])]
    assert np.all(table.rows.alpha[1:7] ** 2 < bar[0])
    assert np.all(table.rows.alpha[1:7] ** 2 > bar[1])
    samples = run(marginal(level_at(run.schedule, 999), jax.random.normal(getkey(), (8, 4096))), 201, sampler="euler")
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.01)
    np.testing.assert_allclose(samples.std(), STD, atol=0.01)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_a_run_that_starts_in_the_middle_is_the_rest_of_a_whole_one(plain, getkey, sampler):
    x, keys = jax.random.normal(getkey(), (2, 8)), jax.random.split(getkey(), 2)
    part = jax.jit(partial(advance, gaussian_denoiser(plain.schedule)))
    table = build_table(sampler, plain.schedule, 20)
    middle = part(begin(x), table, first=0, last=7, keys=keys)
    rest = build_table(sampler, plain.schedule, 20, start=7)
    assert rest.length == 13
    np.testing.assert_array_equal(
        part(begin(middle.x), rest, first=0, last=13, keys=keys).x,
        part(middle, table, first=7, last=20, keys=keys).x,
    )


def test_noise_is_drawn_only_where_a_row_needs_it(plain, getkey, monkeypatch):
    draws, normal = [], jax.random.normal

    def counted(*arguments):
        jax.debug.callback(lambda: draws.append(1))
        return normal(*arguments)

    monkeypatch.setattr(loop.jax.random, "normal", counted)
    x, keys = jnp.zeros((1, 8)), jax.random.split(getkey(), 1)
    run = jax.jit(partial(sample, gaussian_denoiser(plain.schedule)))
    for settings, expected in (({}, 0), ({"eta": 1.0}, 9)):  # the last of ten steps leads to the data
        run(x, build_table("ddim", plain.schedule, 10, **settings), keys=keys).block_until_ready()
        jax.effects_barrier()
        assert len(draws) == expected


class TestProjection:
    """What is put in the place of x after each step."""

    known, noise = jnp.linspace(-1, 1, 8)[None], jnp.cos(jnp.arange(8.0))[None]

    def run(self, schedule, project, x):
        table, keys = build_table("ddim", schedule, 10, eta=1.0), jax.random.split(jax.random.key(0), 1)
        end = jax.jit(partial(advance, gaussian_denoiser(schedule), project=project))
        return end(begin(x), table, first=0, last=10, keys=keys), sample(
            gaussian_denoiser(schedule), x, table, keys=keys
        )

    def test_of_nothing_changes_nothing(self, plain, getkey):
        found, without = self.run(plain.schedule, lambda x, row: x, jax.random.normal(getkey(), (1, 8)))
        np.testing.assert_allclose(found.x, without, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("to_one", [True, False])
    def test_is_told_the_level_that_x_now_has(self, to_one):
        """Noise is added to known data at each level, so the network sees them, and the last level is the result's."""
        schedule = Run(set_alpha_to_one=to_one, std=0.0).schedule

        def add_noise(x, row):
            return row.alpha * self.known + row.sigma * self.noise

        def network(x, t):  # ε of the known data, if it is they that it is asked about
            alpha, sigma = level_of(schedule, t, x.dtype)
            return (x - alpha * self.known) / sigma

        table, keys = build_table("ddim", schedule, 10), jax.random.split(jax.random.key(0), 1)
        seen = []

        def watched(x, t):
            jax.debug.callback(lambda epsilon: seen.append(epsilon), network(x, t))
            return network(x, t)

        start = jnp.zeros((1, 8))
        end = advance(watched, begin(start), table, first=0, last=10, keys=keys, project=add_noise)
        jax.effects_barrier()
        np.testing.assert_allclose(seen[1:], np.broadcast_to(self.noise, (9, 1, 8)), atol=1e-4)
        np.testing.assert_allclose(end.denoised, self.known, atol=1e-4)
        final = 1.0 if to_one else schedule.alphas_cumprod[0]
        np.testing.assert_allclose(
            end.x, np.sqrt(final) * self.known + np.sqrt(1 - final) * self.noise, rtol=1e-6, atol=1e-6
        )
