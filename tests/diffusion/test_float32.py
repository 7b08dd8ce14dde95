# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The compiled loop in float32 against numpy in float64: what rounding costs, of all samplers, in one program."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax import rng
from dreambooth_jax.diffusion.loop import NOISE, sample
from dreambooth_jax.diffusion.samplers import SAMPLERS, build_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from tests.diffusion.numpy_loop import SD, run_table

COUNTS = (1, 2, 3, 5, 20, 50)


def test_rounding_costs_less_than_1e_4():
    keys, x = jax.random.split(rng.root_key(0), 1), jax.random.normal(jax.random.key(1), (1, 9))
    noises = [jax.random.normal(rng.stream(keys[0], NOISE, i), (9,))[None] for i in range(100)]
    noises = np.asarray(noises, np.float64)
    run = jax.jit(partial(sample, lambda x, t: jnp.sin(x + t / 300)))
    for kind in ("epsilon", "v_prediction", "sample"):
        for spacing in ("leading", "trailing", "karras"):
            schedule = NoiseSchedule.from_config({**SD, "prediction_type": kind})
            for number, sampler in enumerate(SAMPLERS):
                steps = COUNTS[(number + len(kind) + len(spacing)) % len(COUNTS)]
                table = build_table(sampler, schedule, steps, spacing=spacing)
                exact = run_table(table, lambda x, t: np.sin(x + t / 300), np.asarray(x, np.float64), noises)
                found = np.asarray(run(x, table, keys=keys))
                error = np.abs(found - exact).max() / np.abs(exact).max()
                assert error < 1e-4, (sampler, kind, spacing, steps, error)
    assert run._cache_size() == 1
