# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Softmax attention, a few queries at a time, in the memory of their logits alone.

For one head, with queries q [t, d], keys k and values v [s, d]:

    l = q kᵀ / √d      p = exp(l - lse(l))      out = p v

The backward pass keeps only ``out`` and lse, and makes p again:

    dv = pᵀ dout       ds = p ∘ (dout vᵀ - (out ∘ dout) 1)       dq = ds k / √d       dk = dsᵀ q / √d

(Dao et al. 2022, without the split along keys: a row of l is short enough.) It needs little memory anywhere, and on a
CPU, one head at a time so that l stays in the cache, it is also the fastest.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.models.layers import wide


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def blocked_attention(
    query: Float[Array, "b t n d"],
    key: Float[Array, "b s n d"],
    value: Float[Array, "b s n d"],
    causal: bool,
    blocks: int,
    serial: bool,
) -> Float[Array, "b t n d"]:
    """softmax(q kᵀ / √d) v for each of n heads, in blocks of queries.

    Args:
        query, key, value: of one dtype, which is the result's.
        causal: query i sees keys 0 to i only.
        blocks: how many parts to split the queries into; no need to divide them.
        serial: one head after the other, rather than all at once.
    """
    return _forward(query, key, value, causal, blocks, serial)[0]


def _forward(query: Array, key: Array, value: Array, causal: bool, blocks: int, serial: bool) -> tuple[Array, tuple]:
    head = functools.partial(_head_forward, causal=causal, blocks=blocks)
    out, lse = _over_heads(head, serial)(query, key, value)
    return out, (query, key, value, out, lse)


def _backward(causal: bool, blocks: int, serial: bool, residuals: tuple, dout: Array) -> tuple[Array, ...]:
    head = functools.partial(_head_backward, causal=causal, blocks=blocks)
    return _over_heads(head, serial)(*residuals, dout)


blocked_attention.defvjp(_forward, _backward)


def _over_heads(function: Callable, serial: bool) -> Callable:
    """A function of one head's arrays [t, ...] -> one of arrays [b, t, n, ...].

    The examples of a batch always go together, so that a batch may be sharded over devices.
    """
    batched = jax.vmap(function)
    if not serial:
        return jax.vmap(batched, in_axes=2, out_axes=2)

    def mapped(*arrays: Array) -> tuple[Array, ...]:
        results = jax.lax.map(lambda head: batched(*head), tuple(jnp.moveaxis(array, 2, 0) for array in arrays))
        return tuple(jnp.moveaxis(result, 0, 2) for result in results)

    return mapped


def _split(x: Array, blocks: int) -> Array:
    """[t, ...] -> [blocks, ceil(t / blocks), ...], with zeros at the end."""
    size = -(-x.shape[0] // blocks)
    x = jnp.pad(x, ((0, blocks * size - x.shape[0]), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(blocks, size, *x.shape[1:])


def _scaled(q: Array) -> Array:
    """q / √d in at least float32: cheaper than to scale the logits, and rounded as little."""
    return q.astype(wide(q.dtype)) * q.shape[1] ** -0.5


def _head_forward(q: Array, k: Array, v: Array, *, causal: bool, blocks: int) -> tuple[Array, Array]:
    """(out [t, d], lse [t]) of one head."""
    precise = wide(q.dtype)
    dot = functools.partial(jnp.einsum, preferred_element_type=precise)

    def block(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        q, position = inputs
        logits = dot("td,sd->ts", q, k)
        if causal:
            logits = jnp.where(position[:, None] >= jnp.arange(k.shape[0])[None, :], logits, -jnp.inf)
        top = logits.max(axis=1, keepdims=True)
        p = jnp.exp(logits - top)
        total = p.sum(axis=1, keepdims=True)
        return dot("ts,sd->td", p.astype(v.dtype), v) / total, (top + jnp.log(total))[:, 0]

    out, lse = jax.lax.map(block, (_split(_scaled(q), blocks), _split(jnp.arange(len(q)), blocks)))
    return out.reshape(-1, out.shape[-1])[: len(q)].astype(q.dtype), lse.reshape(-1)[: len(q)]


def _head_backward(
    q: Array, k: Array, v: Array, out: Array, lse: Array, dout: Array, *, causal: bool, blocks: int
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) of one head. Logits lie transposed, [s, t]: XLA's matrix products on a CPU want it so."""
    precise = lse.dtype
    dot = functools.partial(jnp.einsum, preferred_element_type=precise)

    def block(carry: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        dk, dv = carry
        q, dout, lse, correction, position = inputs
        p = jnp.exp(dot("sd,td->st", k, q) - lse[None, :])
        if causal:
            p = jnp.where(position[None, :] >= jnp.arange(k.shape[0])[:, None], p, 0.0)
        ds = (p * (dot("sd,td->st", v, dout) - correction[None, :])).astype(k.dtype)
        dv += dot("st,td->sd", p.astype(v.dtype), dout)
        dk += dot("st,td->sd", ds, q)
        return (dk, dv), dot("sd,st->dt", k, ds)

    correction = jnp.sum(out.astype(precise) * dout.astype(precise), axis=1)
    inputs = (_scaled(q), dout, lse, correction, jnp.arange(len(q)))
    zeros = jnp.zeros_like(k, precise)
    (dk, dv), dq = jax.lax.scan(block, (zeros, zeros), tuple(_split(x, blocks) for x in inputs))
    dq = _scaled(dq.swapaxes(1, 2).reshape(-1, q.shape[1])[: len(q)])
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
