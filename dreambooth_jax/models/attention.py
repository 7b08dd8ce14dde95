# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Softmax attention: one function for all networks, and the way to compute it on each kind of device.

    softmax(q kᵀ / √d) v

*Fused*: cuDNN's kernel, from Ampere on, for 16-bit numbers and heads of up to 128. Logits never reach memory.
*Splash*: Pallas kernels for TPUs (:mod:`.splash_attention`). Neither do they.
*Plain*: XLA's, which holds all logits, [b, n, t, s], in float32.
*Blocked*: a few queries at a time (:mod:`.blocked_attention`).

Why these, by the bytes that the compilers reserve and move, is in ``docs/hardware.md``.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dreambooth_jax.models.blocked_attention import blocked_attention
from dreambooth_jax.models.splash_attention import splash_attention
from dreambooth_jax.target import CPU, Arch

_BLOCK = 2**20
"""Logits of one block on a CPU, 4 MB in float32: of one head if need be. Half or twice as many were no faster."""
_MEMORY = 2**26
"""Logits of all heads, 256 MB in float32, from which on accelerators, too, go block by block."""
_SPLASH = 2**24
"""Logits of all heads, 64 MB, up to which a TPU keeps them in its 128 MB of VMEM: then plain attention is as good."""
_SPLASH_KEYS = 128
"""With no more keys splash is worse: for each query it writes as much as 128 logits (log-sum-exp, along all lanes)."""
_AMPERE = (8, 0)
"""The first compute capability with cuDNN's kernel, and with bfloat16."""
_FUSED_HEAD = 128
"""Size of the largest head that cuDNN's kernel is given. From Hopper on it takes 256, but jax lets it only where the
machine that traces is itself one, and what is planned elsewhere must be what runs. Larger heads are the UNet's lowest
levels, with a few hundred tokens, and the autoencoder's, once a picture."""


def attention(
    query: Float[Array, "b t n d"],
    key: Float[Array, "b s n d"],
    value: Float[Array, "b s n d"],
    *,
    arch: Arch,
    causal: bool = False,
) -> Float[Array, "b t n d"]:
    """softmax(q kᵀ / √d) v for each of n heads; the softmax is never below float32.

    Args:
        query, key, value: of one dtype, which is the result's.
        arch: of the devices that the program is compiled for. Choosing at lowering time
            (``jax.lax.platform_dependent``) would trace, and keep residuals for, ways that they do not have.
        causal: query i sees keys 0 to i only.
    """
    (batch, tokens, heads, size), keys = query.shape, key.shape[1]
    if arch.capability >= _AMPERE and query.dtype.itemsize == 2 and size <= _FUSED_HEAD and size % 8 == 0:
        kernel = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        return even_attention(kernel, query, key, value, causal=causal)
    logits = batch * tokens * keys
    if arch.platform == "cpu":
        serial = logits * heads > _BLOCK  # otherwise all heads fit into the cache, and no loop has to be compiled
        return blocked_attention(query, key, value, causal, min(tokens, math.ceil(logits / _BLOCK)), serial)
    if arch.platform == "tpu" and keys > _SPLASH_KEYS and logits * heads > _SPLASH:
        return splash_attention(query, key, value, causal=causal)
    blocks = min(tokens, math.ceil(logits * heads / _MEMORY))
    # jax's plain way names an algorithm for its products of 16-bit numbers that cards before Ampere do not have
    before_ampere = arch.platform == "gpu" and arch.capability < _AMPERE and query.dtype.itemsize == 2
    if blocks > 1 or before_ampere:
        return blocked_attention(query, key, value, causal, blocks, False)
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation="xla")


def even_attention(
    kernel: Callable[..., Array],
    query: Float[Array, "b t n d"],
    key: Float[Array, "b s n d"],
    value: Float[Array, "b s n d"],
    *,
    causal: bool,
) -> Float[Array, "b t n d"]:
    """Attention by a kernel that wants an even number of queries and keys, as jax does for cuDNN's backward pass.

    A row of zeros is added where they are not. As a query its result is cut off again, so that it has no gradient. As a
    key it lies after the length that the kernel is told, or, where attention is causal, after every real query.

    Args:
        kernel: takes query, key and value, ``is_causal`` and ``key_value_seq_lengths``.
        query, key, value, causal: as in :func:`attention`.
    """
    tokens, keys = query.shape[1], key.shape[1]
    lengths = None if causal or keys % 2 == 0 else jnp.full(key.shape[:1], keys, jnp.int32)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) if x.shape[1] % 2 else x for x in (query, key, value)
    )
    return kernel(query, key, value, is_causal=causal, key_value_seq_lengths=lengths)[:, :tokens]


class Context(NamedTuple):
    """What cross-attention looks at: states of a text and, apart from them, of images."""

    states: Float[Array, "b s e"]
    images: Mapping[str, tuple[tuple[Array, Array], ...]]
    """Path of an attention in its network -> of each image its keys and values there, [b, n, channels]."""


class Attention(nn.Module):
    """Multi-head attention with the names of diffusers.

    Attributes:
        heads: number of heads; each has size channels / heads.
        bias: whether the projections to query, key and value have one.
        dtype: what to compute in.
        arch: what to compute on.
    """

    heads: int
    bias: bool = False
    dtype: DTypeLike = jnp.float32
    arch: Arch = CPU

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], context: Float[Array, "b s e"] | Context | None = None
    ) -> Float[Array, "b t c"]:
        """Queries from ``x``, keys and values from ``context``, or from ``x`` itself.

        What the same queries find in images is added: decoupled cross-attention (Ye et al. 2023, arXiv 2308.06721).
        """
        channels = x.shape[-1]
        images: tuple = ()
        source = x
        if isinstance(context, Context):
            source, images = context.states, context.images.get("/".join(self.path), ())
        elif context is not None:
            source = context

        def split(projected: Array) -> Array:
            return projected.reshape(*projected.shape[:2], self.heads, -1)

        def heads(name: str, tokens: Array) -> Array:
            return split(nn.Dense(channels, use_bias=self.bias, dtype=self.dtype, name=name)(tokens))

        query = heads("to_q", x)
        h = attention(query, heads("to_k", source), heads("to_v", source), arch=self.arch)
        for key, value in images:
            h = h + attention(query, split(key), split(value), arch=self.arch)
        return nn.Dense(channels, dtype=self.dtype, name="to_out_0")(h.reshape(x.shape))
