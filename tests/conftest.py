# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Strict numerics and eight pretended CPU devices for every test."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may need a network
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def getkey():
    """A fresh key at every call."""
    counter = iter(range(1_000_000))
    return lambda: jax.random.key(next(counter))
