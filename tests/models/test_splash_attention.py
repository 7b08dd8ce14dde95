# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The TPU's kernels, run by Pallas' interpreter: filling and blocks change nothing. ``tests/targets`` compiles them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.flops import flops
from dreambooth_jax.models import splash_attention as module
from dreambooth_jax.models.splash_attention import splash_attention
from tests.models.test_attention import inputs, largest_error, plain, with_gradients

interpreted = functools.partial(splash_attention, interpret=True)

# tokens, keys, head size, causal
CASES = [
    (256, 77, 40, False),
    (200, 300, 80, True),
    (77, 77, 64, True),
    (16, 154, 160, False),
    (300, 700, 40, False),
    (128, 128, 512, False),
]


@pytest.mark.parametrize(("tokens", "keys", "size", "causal"), CASES)
def test_splash_is_attention(tokens, keys, size, causal):
    arrays = inputs(tokens, keys, size, np.float32, batch=2, heads=2)
    expected = with_gradients(functools.partial(plain, causal=causal), *arrays)
    found = with_gradients(functools.partial(interpreted, causal=causal), *arrays)
    assert largest_error(found, expected) <= 4e-6


@pytest.mark.parametrize("causal", [False, True])
def test_keys_may_fill_several_blocks_of_memory(causal, monkeypatch):
    monkeypatch.setattr(module, "_BACKWARD", 10 * 2**17)
    monkeypatch.setattr(module, "_FORWARD", 2**19)
    arrays = inputs(700, 1300, 40, np.float32, batch=1, heads=1)
    expected = with_gradients(functools.partial(plain, causal=causal), *arrays)
    blocks = module._blocks(700, 1300, 40, 4)
    assert blocks.keys > blocks.backward
    assert largest_error(with_gradients(functools.partial(interpreted, causal=causal), *arrays), expected) <= 4e-6


def test_bfloat16_rounds_inputs_and_results_only():
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in inputs(256, 300, 40, np.float32)]
    expected = with_gradients(functools.partial(plain, causal=False), *(a.astype(jnp.float32) for a in arrays))
    found = with_gradients(interpreted, *arrays)
    assert {a.dtype for a in found} == {jnp.dtype(jnp.bfloat16)}
    assert largest_error([a.astype(jnp.float32) for a in found], expected) <= 2**-6


def test_work_of_the_kernels_is_counted():
    """Two products forward; backward two of them again and three more, and the rows of out ∘ dout."""
    shape = jax.ShapeDtypeStruct((2, 1280, 3, 128), jnp.bfloat16)
    product = 2 * 2 * 3 * 1280**2 * 128
    assert flops(splash_attention, shape, shape, shape) == 2 * product

    def loss(*arrays):
        return splash_attention(*arrays).astype(jnp.float32).sum()

    assert flops(jax.grad(loss, (0, 1, 2)), shape, shape, shape) == 7 * product + 2 * shape.size
