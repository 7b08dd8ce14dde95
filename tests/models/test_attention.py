# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Attention in blocks is attention; and the way is chosen by what the device can do."""

import functools
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dreambooth_jax.models.attention import attention, even_attention
from dreambooth_jax.models.blocked_attention import blocked_attention
from dreambooth_jax.target import CPU, Arch

# tokens, keys, head size, causal, blocks (that divide the queries, or not), one head after the other?
CASES = [
    (64, 77, 40, False, 4, True),
    (77, 77, 64, True, 3, False),
    (33, 6, 160, False, 7, False),
    (33, 33, 160, True, 4, True),
    (9, 50, 80, False, 1, True),
    (50, 50, 80, True, 25, False),
    (64, 154, 40, False, 4, True),  # of prompts in several chunks
    (64, 231, 40, False, 3, False),
]


def inputs(tokens, keys, size, dtype, *, batch=2, heads=3):
    """Queries, keys, values, and a cotangent of the result."""
    rng = np.random.default_rng(tokens * keys + size)
    lengths = (tokens, keys, keys, tokens)
    return [rng.normal(size=(batch, length, heads, size)).astype(dtype) for length in lengths]


def plain(query, key, value, causal, seen=None):
    """The definition; ``seen``, [b, n, t, s] or 1 for each, says which keys there are."""
    logits = jnp.einsum("btnd,bsnd->bnts", query, key) / np.sqrt(query.shape[-1])
    if causal:
        logits = jnp.where(np.tri(*logits.shape[2:], dtype=bool)[None, None], logits, -jnp.inf)
    if seen is not None:
        logits = jnp.where(seen, logits, -jnp.inf)
    return jnp.einsum("bnts,bsnd->btnd", jax.nn.softmax(logits), value)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(function, query, key, value, cotangent):
    """(out, dq, dk, dv)."""
    out, vjp = jax.vjp(function, query, key, value)
    return out, *vjp(cotangent)


def largest_error(found, expected):
    """Of out, dq, dk, dv, relative to the largest value of each."""
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max() for a, b in zip(found, expected))


@pytest.mark.parametrize(("tokens", "keys", "size", "causal", "blocks", "serial"), CASES)
def test_blocks_change_nothing(tokens, keys, size, causal, blocks, serial):
    arrays = inputs(tokens, keys, size, np.float64)
    with jax.enable_x64(True):
        expected = with_gradients(functools.partial(plain, causal=causal), *arrays)
        found = with_gradients(lambda *qkv: blocked_attention(*qkv, causal, blocks, serial), *arrays)
    assert {a.dtype for a in found} == {np.dtype(np.float64)}
    assert largest_error(found, expected) <= 1e-12
    found = with_gradients(
        functools.partial(attention, arch=CPU, causal=causal), *(a.astype(np.float32) for a in arrays)
    )
    assert {a.dtype for a in found} == {np.dtype(np.float32)}
    assert largest_error(found, expected) <= 2e-6


def test_softmax_is_wide_in_bfloat16():
    """Logits of a size where bfloat16 has no decimals left: only the inputs' and the result's rounding may show."""
    q, k, v, _ = (jnp.asarray(a, jnp.bfloat16) for a in inputs(32, 48, 8, np.float32))
    q *= 30
    found = attention(q, k, v, arch=CPU)
    assert found.dtype == jnp.bfloat16
    expected = plain(*(a.astype(jnp.float32) for a in (q, k, v)), causal=False)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=2**-7 * float(jnp.abs(v).max()))


def test_large_logits_do_not_overflow():
    q, k, v, cotangent = inputs(16, 16, 8, np.float32)
    results = with_gradients(functools.partial(attention, arch=CPU), 1e4 * q, k, v, cotangent)
    assert all(np.isfinite(result).all() for result in results)


@pytest.mark.parametrize("serial", [False, True])
def test_a_batch_may_lie_on_several_devices(serial):
    arrays = inputs(12, 10, 8, np.float32, batch=8)

    def function(query, key, value):
        return blocked_attention(query, key, value, False, 3, serial)

    expected = with_gradients(function, *arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("data"))) for a in arrays]
    compiled = with_gradients.lower(function, *sharded).compile()
    assert "all-gather" not in compiled.as_text()
    spec = PartitionSpec("data")
    split = jax.shard_map(functools.partial(with_gradients, function), mesh=mesh, in_specs=spec, out_specs=spec)
    for a, b, c in zip(compiled(*sharded), expected, jax.jit(split)(*sharded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(c, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "keys", "causal"),
    [
        (65, 77, False),
        (64, 77, False),
        (33, 6, False),
        (77, 77, True),
        (1, 3, False),
        (64, 154, False),
        (65, 231, False),
    ],
)
def test_an_odd_number_of_queries_or_keys_is_made_even_without_a_trace(tokens, keys, causal):
    """By a kernel that does what jax says cuDNN's does, in float64."""

    def kernel(query, key, value, *, is_causal, key_value_seq_lengths):
        assert query.shape[1] % 2 == key.shape[1] % 2 == value.shape[1] % 2 == 0
        seen = None
        if key_value_seq_lengths is not None:
            seen = (jnp.arange(key.shape[1])[None, :] < key_value_seq_lengths[:, None])[:, None, None, :]
        return plain(query, key, value, is_causal, seen)

    arrays = inputs(tokens, keys, 40, np.float64)
    with jax.enable_x64(True):
        expected = with_gradients(functools.partial(plain, causal=causal), *arrays)
        found = with_gradients(functools.partial(even_attention, kernel, causal=causal), *arrays)
    assert largest_error(found, expected) <= 1e-12


def ways(capability, dtype, *, size=40, tokens=4096, keys=77, causal=False, platform="gpu"):
    """Which ways a program takes, forward and backward."""
    shapes = [jax.ShapeDtypeStruct((2, length, 8, size), dtype) for length in (tokens, keys, keys)]

    def loss(query, key, value):
        return attention(query, key, value, arch=Arch(platform, capability), causal=causal).astype(jnp.float32).sum()

    return str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(*shapes))


@pytest.mark.parametrize("capability", [(0, 0), (7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("size", [160, 512])
def test_large_heads_are_no_kernels_matter(capability, size):
    assert "dot_general" in ways(capability, jnp.bfloat16, size=size, tokens=256)


@pytest.mark.parametrize(
    ("platform", "capability"), [("gpu", (7, 5)), ("gpu", (0, 0)), ("tpu", (0, 0)), ("cpu", (0, 0))]
)
def test_without_a_kernel_all_logits_of_a_large_picture_never_exist(platform, capability):
    program = ways(capability, jnp.bfloat16, tokens=4096, keys=4096, platform=platform)
    assert "4096,4096" not in program


def test_a_capability_is_read_off_the_device():
    for said, capability in (("10.3", (10, 3)), ("7.5", (7, 5)), ("gfx942", (0, 0)), ("", (0, 0))):
        device = Mock(spec=jax.Device, platform="gpu", compute_capability=said)
        assert Arch.of(device) == Arch("gpu", capability)
    assert Arch.of(jax.devices()[0]) == CPU
