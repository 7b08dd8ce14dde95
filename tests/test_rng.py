# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax import rng


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_are_apart_by_seed_name_and_counters():
    keys = {
        bits(rng.stream(rng.root_key(seed), name, *counters))
        for seed in (0, 1)
        for name in ("noise", "timesteps", "latents")
        for counters in ((), (0,), (1,), (0, 1), (1, 0))
    }
    assert len(keys) == 2 * 3 * 5


def test_a_stream_is_a_function_of_its_name_and_counters_alone():
    root = rng.root_key(3)
    first = bits(rng.stream(root, "noise", 5))
    rng.stream(root, "something new", 5)
    assert bits(rng.stream(root, "noise", jnp.int32(5))) == first


def test_an_example_has_its_key_wherever_it_lies():
    key = rng.stream(rng.root_key(0), "noise", 0)
    whole = jax.random.key_data(rng.per_example(key, jnp.arange(8)))
    part = jax.random.key_data(rng.per_example(key, jnp.asarray([6, 2])))
    np.testing.assert_array_equal(part, whole[np.asarray([6, 2])])
