# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Strict numerics and eight pretended CPU devices for every test."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of what these tests do; CI runs the parity tests once more with XLA's usual optimisations.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may need a network
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# Many tests compile the same tiny networks: each program once per session.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="dreambooth_jax_tests_"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def getkey():
    """A fresh key at every call."""
    counter = iter(range(1_000_000))
    return lambda: jax.random.key(next(counter))
