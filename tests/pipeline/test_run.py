# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Looking on while pictures are made, and noise from outside: in the one program that there is."""

import numpy as np
import pytest

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.program import program_of
from dreambooth_jax.pipeline.run import rows_with_noise, stretches
from dreambooth_jax.training.parallel import sharding
from tests.test_pipeline import FIXTURES, PROMPTS


@pytest.fixture(scope="module")
def pipe():
    return load_pretrained(FIXTURES / "legacy_flax_sd15")


RUNS = [
    {"sampler": "dpmpp_2m"},
    *(pytest.param(run, marks=pytest.mark.slow) for run in ({}, {"sampler": "euler_a"})),
    {"sampler": "heun", "guidance_scale": 1.0},
]


@pytest.mark.parametrize("options", RUNS)
def test_looking_on_changes_nothing_and_compiles_nothing(pipe, options):
    alone = pipe(PROMPTS, steps=4, output="latents", **options)
    before = sharding._mapped._cache_size()
    seen = []
    watched = pipe(PROMPTS, steps=4, output="latents", on_step=seen.append, **options)
    np.testing.assert_array_equal(watched, alone)
    assert sharding._mapped._cache_size() == before
    assert [step.done for step in seen] == list(range(1, seen[-1].total + 1))
    assert seen[-1].total == (7 if options.get("sampler") == "heun" else 4)  # heun: two calls in all but the last step
    pictures = pipe(PROMPTS, steps=4, on_step=lambda step: None, **options)
    np.testing.assert_array_equal(pictures, pipe(PROMPTS, steps=4, **options))


def test_what_is_seen_becomes_the_picture(pipe):
    """DPM++ 2M ends with D itself."""
    seen = []
    final = pipe(PROMPTS, steps=5, sampler="dpmpp_2m", output="latents", on_step=seen.append)
    distances = [np.abs(np.asarray(step.denoised) - final).mean() for step in seen]
    assert distances[-1] < 1e-5 < distances[0]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
def test_noise_of_other_tools_compiles_nothing(pipe, sampler):
    ours = pipe(PROMPTS, steps=4, sampler=sampler, output="latents")
    before = sharding._mapped._cache_size()
    theirs = [
        pipe(PROMPTS, steps=4, sampler=sampler, output="latents", noise=noise)
        for noise in ("torch", "philox", "comfy", "invoke")
    ]
    assert sharding._mapped._cache_size() == before
    assert all(np.abs(one - ours).max() > 1e-2 for one in theirs)
    changed = pipe(PROMPTS, steps=4, sampler=sampler, output="latents", noise="torch", noise_seed_delta=1)
    assert (changed != theirs[0]).any() == (sampler == "euler_a")


def test_given_noise_is_first_noise_and_steps_noise(pipe):
    """Euler a in one step from x to the data draws nothing: its result is that of the tool's first noise as latents."""
    first = ToolNoise("torch", [4], (8, 8, 4)).first
    for sampler, steps in (("dpmpp_2m", 3), ("euler_a", 1)):
        run = {"seed": 4, "steps": steps, "sampler": sampler, "output": "latents"}
        np.testing.assert_array_equal(pipe("a dog", noise="torch", **run), pipe("a dog", latents=first, **run))


def test_seeds_of_other_tools_may_have_64_bits(pipe):
    """The CPU's generator takes the lowest 32 bits, a GPU's all of them."""
    low, high = 7, 2**40 + 7
    run = {"steps": 2, "sampler": "euler_a", "output": "latents"}
    same, first = (pipe("a dog", noise="torch", seed=seed, **run) for seed in (low, high))
    np.testing.assert_array_equal(same, first)
    one, other = (pipe("a dog", noise="philox", seed=seed, **run) for seed in (low, high))
    assert np.abs(one - other).max() > 1e-2
    with pytest.raises(InputError, match="seed = 1099511627783: must be from 0 to 4294967295"):
        pipe("a dog", seed=high, **run)
    with pytest.raises(InputError, match="must be from 0 to 18446744073709551615"):
        pipe("a dog", seed=2**64, noise="philox", **run)


def test_rows_that_need_noise(pipe):
    def noisy(**options):
        _, shared = program_of(pipe, SamplingConfig(steps=4, **options))
        return rows_with_noise(shared.table)

    assert noisy(sampler="euler") == noisy(sampler="dpmpp_2m") == noisy() == []
    assert noisy(sampler="euler_a") == [0, 1, 2]
    assert noisy(sampler="dpmpp_2s_a") == [1, 3, 5]
    assert stretches(0, 7, [1, 3, 5], each=False) == [2, 4, 6, 7]
    assert stretches(0, 4, [], each=False) == [4]
    assert stretches(0, 3, [1], each=True) == [1, 2, 3]
    assert stretches(2, 6, [1, 3, 7], each=False) == [4, 6]
    assert stretches(2, 4, [], each=True) == [3, 4]
