# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Methods that the package does not have, written in a few lines each: the table and the loop hold them as they are."""

import math
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng
from dreambooth_jax.diffusion import samplers
from dreambooth_jax.diffusion.levels import Level
from dreambooth_jax.diffusion.loop import advance, begin, sample
from dreambooth_jax.diffusion.process import reading
from dreambooth_jax.diffusion.samplers import Sampler, build_table, ddim, implied_noise
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.table import R1, R2, D, E, Row, X, Z, make_table

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MEAN, STD = 0.7, 0.3
KINDS = ("epsilon", "sample", "v_prediction")


def heun(steps):
    """Two calls of the network in each step (arXiv 2206.00364, algorithm 1)."""
    for a, b in steps:
        forward = b.alpha * D + b.sigma * implied_noise(a)
        if b.k == 0 or a.k == math.inf:
            yield Row(a, forward)
            continue
        half = b.alpha * (b.k - a.k) / 2
        yield Row(a, forward, r1=b.alpha / a.alpha * X + half * implied_noise(a))
        yield Row(b, R1 + half * implied_noise(b))


def dpmpp_2m(steps):
    """History: D of the row before (arXiv 2211.01095, algorithm 2)."""
    before = None
    for a, b in steps:
        h = math.log(a.k / b.k) if b.k > 0 else math.inf
        slope = (D - R1) * h / before / 2 if before and b.k > 0 else 0
        yield Row(a, b.sigma / a.sigma * X - b.alpha * math.expm1(-h) * (D + slope), r1=D)
        before = h if a.k < math.inf else None


def lms(steps):
    """History of the noise: the linear multistep method of order 2 in k (Hairer, Nørsett & Wanner, III.5)."""
    before = None
    for a, b in steps:
        h = b.k - a.k
        slope = E if before is None else E + (E - R1) * h / before / 2
        yield Row(a, b.alpha / a.alpha * X + b.alpha * h * slope, r1=E)
        before = h


def ladder(k):
    """Steps down a ladder of k; the network is told k itself."""
    levels = [Level(each, 1 / math.hypot(1, each), each / math.hypot(1, each)) for each in k]
    return list(pairwise(levels))


def karras(n, smallest=0.05):
    return np.linspace(40 ** (1 / 7), smallest ** (1 / 7), n + 1) ** 7


def denoiser(kind):
    """The best there is for data from N(MEAN, STD²), told k instead of a timestep."""

    def denoise(x, k):
        alpha, sigma = 1 / jnp.hypot(1, k), k / jnp.hypot(1, k)
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        of_x0, of_x = reading("sample", kind, alpha, sigma)
        return of_x0 * x0 + of_x * x

    return denoise


def exact(level, normal):
    """The probability flow maps quantile to quantile."""
    return level.alpha * MEAN + np.hypot(level.alpha * STD, level.sigma) * normal


def error(rows, steps, *, kind="epsilon", program):
    table = make_table(rows, final=steps[-1][1], prediction_type=kind, clip=math.inf, size=500)
    normal = jnp.linspace(-2, 2, 9)[None]
    keys = jax.random.split(jax.random.key(0), 1)
    found = program(exact(steps[0][0], normal), table, keys=keys)
    return float(jnp.abs(found - exact(steps[-1][1], normal)).max())


@pytest.mark.parametrize(("method", "order"), [(ddim, 1), (samplers.euler, 1), (heun, 2), (dpmpp_2m, 2), (lms, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_order_of_convergence(method, order, kind):
    numbers = (50, 100, 200)
    with jax.enable_x64(True):
        program = jax.jit(partial(sample, denoiser(kind)))
        errors = []
        for n in numbers:
            steps = ladder(karras(n))
            errors.append(error(method(steps), steps, kind=kind, program=program))
        assert program._cache_size() == 1
    found = np.log2(np.divide(errors[:-1], errors[1:]))
    print(found)
    np.testing.assert_allclose(found[-1], order, atol=0.15)


def test_one_program_for_all(monkeypatch):
    """Methods, steps, schedules, eta, prediction types, spacings, starts: none of them compiles anything."""
    monkeypatch.setitem(samplers.SAMPLERS, "another heun", Sampler(heun))
    monkeypatch.setitem(samplers.SAMPLERS, "another 2m", Sampler(dpmpp_2m))
    x, keys = jnp.ones((2, 3)), jax.random.split(rng.root_key(0), 2)
    calls = jax.jit(partial(sample, lambda x, t: jnp.sin(x + t / 300)))
    results = []
    for config in (
        {},
        {"beta_schedule": "linear", "timestep_spacing": "linspace", "clip_sample": True},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"prediction_type": "sample", "timestep_spacing": "trailing"},
    ):
        schedule = NoiseSchedule.from_config({**SD, **config})
        for name in samplers.SAMPLERS:
            settings = {"eta": 0.3} if name == "ddim" else {}
            for steps, start in ((1, 0), (20, 0), (20, 7), (50 if name in ("lcm", "tcd") else 998, 0)):
                results.append(calls(x, build_table(name, schedule, steps, start=start, **settings), keys=keys))
    assert calls._cache_size() == 1
    assert np.isfinite(results).all()
    assert len({result.tobytes() for result in map(np.asarray, results)}) > len(results) / 2


@pytest.mark.parametrize("method", [partial(ddim, eta=1.0), heun, dpmpp_2m, lms])
def test_a_run_in_parts_is_the_whole_run(method):
    """Bit for bit, because registers are all that a method remembers."""
    steps = ladder(karras(12))
    table = make_table(method(steps), final=steps[-1][1], prediction_type="epsilon", clip=math.inf, size=40)
    x, keys = jnp.linspace(-1, 1, 8).reshape(2, 4), jax.random.split(jax.random.key(0), 2)
    part = jax.jit(partial(advance, denoiser("epsilon"), keys=keys))
    count = int(table.length)
    whole = part(begin(x), table, first=0, last=count)
    for k in (0, 1, 5, count):
        halves = part(part(begin(x), table, first=0, last=k), table, first=k, last=count)
        jax.tree.map(np.testing.assert_array_equal, halves, whole)
    beyond = part(begin(x), table, first=0, last=1000)
    jax.tree.map(np.testing.assert_array_equal, beyond, whole)
    assert part._cache_size() == 1
    np.testing.assert_array_equal(jax.jit(partial(sample, denoiser("epsilon")))(x, table, keys=keys), whole.x)


def test_padding_changes_nothing():
    steps = ladder(karras(12))
    table = make_table(heun(steps), final=steps[-1][1], prediction_type="epsilon", clip=math.inf, size=40)
    x, keys = jnp.linspace(-1, 1, 8).reshape(2, 4), jax.random.split(jax.random.key(0), 2)
    run = jax.jit(partial(sample, denoiser("epsilon")))
    padded = table._replace(length=np.asarray(39, np.int32))
    np.testing.assert_array_equal(run(x, padded, keys=keys), run(x, table, keys=keys))


def test_a_line_is_what_it_says():
    """Every name of a line, with a made-up network; registers are 0 at first."""
    level = Level(3.5, 0.6, 0.8)
    lines = 2 * X + 3 * D + 5 * E + 7 * Z, X + E, D, Z
    rows = [Row(level, *lines), Row(level, X + 2 * R1 + 3 * R2, r2=R1)]
    x, keys = jnp.asarray([[0.3, -0.9]]), jax.random.split(jax.random.key(1), 1)
    for kind in KINDS:
        table = make_table(rows, final=level, prediction_type=kind, clip=0.5, size=0)
        network = lambda x, t: jnp.cos(x) + t  # noqa: E731
        first, both = (
            advance(network, begin(x), table, first=0, last=last, keys=keys) for last in (jnp.int32(1), jnp.int32(2))
        )
        n = network(x, 3.5)
        x0, epsilon = (c * n + d * x for c, d in (reading(kind, target, 0.6, 0.8) for target in ("sample", "epsilon")))
        d = jnp.clip(x0, -0.5, 0.5)
        z = jax.random.normal(rng.stream(keys[0], "ddim", 0), (2,))[None]
        np.testing.assert_allclose(first.x, 2 * x + 3 * d + 5 * epsilon + 7 * z, rtol=1e-5)
        np.testing.assert_allclose(first[1:], [x + epsilon, d, z, d], rtol=1e-5)
        np.testing.assert_allclose(both.x, first.x + 2 * first.r1 + 3 * first.r2, rtol=1e-5)
        np.testing.assert_allclose([both.r1, both.r2, both.r3], [first.r1, first.r1, first.r3], rtol=1e-6)
