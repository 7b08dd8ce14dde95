# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Softmax attention on TPUs, by the Pallas kernels that come with jax ("splash" attention, without its sparsity).

They go through logits tile by tile, [queries of a block, keys of a block], and never write them to memory, in neither
pass (Dao et al. 2022). The backward pass is one kernel, five products for a tile. Three things are chosen here:

*Layout*: tokens lie along lanes, [b, n, d, t]. That is how XLA writes the projections by itself, and heads of 40 or 80
features then fill their tiles; features along lanes would pad each to 128, in memory and on the way to it.

*Padding*: tokens are filled up to whole blocks. Queries of the filling are cut off again, so that their gradients are
zero; keys of the filling belong to another segment, which no query sees.

*Blocks*: a *compute* block is what a product takes at once. All keys of a head stay in VMEM, a *memory* block, where
they fit: then they are read once, and the backward kernel writes one gradient of queries rather than one per block.

Mosaic kernels can't be partitioned by the compiler: call this for one device, or inside ``shard_map`` or ``pmap``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Float

_LANES = 128
"""The kernels take tokens in multiples of this; features along lanes are padded to it."""
_BLOCK = 640
"""Tokens of a compute block at most: a tile of float32 logits takes 1.6 MB, and the backward pass holds several."""
_BLOCK_COST = 64
"""What a compute block costs besides its products, in tokens: between a block more and some filling, the cheaper."""
_COMPUTE = 2**19
"""Bytes that one array of a compute block may take: what limits heads of 512 features in float32."""
_FORWARD = 2**20
"""Bytes that the keys of a forward memory block may take, and the values."""
_BACKWARD = 2**23
"""Bytes that keys, values and gradients of a backward memory block may take. A v5e's kernel has 16 MB for everything:
with 11 MB here some shapes failed to compile, and only in programs that had no VMEM left to keep operands in."""


class _Blocks(NamedTuple):
    """Tokens of blocks, and of all of them."""

    query: int
    queries: int
    compute: int
    forward: int
    backward: int
    keys: int


def splash_attention(
    query: Float[Array, "b t n d"],
    key: Float[Array, "b s n d"],
    value: Float[Array, "b s n d"],
    *,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "b t n d"]:
    """softmax(q kᵀ / √d) v for each of n heads, in bfloat16 or float32; the softmax is in float32.

    Args:
        query, key, value: of one dtype, which is the result's. Any numbers and sizes will do.
        causal: query i sees keys 0 to i only.
        interpret: run the kernels' code without a TPU, slowly, for tests.
    """
    (_, tokens, heads, size), keys = query.shape, key.shape[1]
    blocks = _blocks(tokens, keys, size, query.dtype.itemsize)
    mask = (splash.CausalMask if causal else splash.FullMask)((blocks.queries, blocks.keys))
    minor = splash.QKVLayout.SEQ_MINOR
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=blocks.query,
            block_kv=blocks.forward,
            block_kv_compute=blocks.compute,
            block_q_dkv=blocks.query,
            block_kv_dkv=blocks.backward,
            block_kv_dkv_compute=blocks.compute,
            use_fused_bwd_kernel=True,
            q_layout=minor,
            k_layout=minor,
            v_layout=minor,
        ),
        interpret=interpret,
    )
    scaled = (query.astype(jnp.float32) * size**-0.5).astype(query.dtype)
    arrays = (_filled(scaled, blocks.queries), _filled(key, blocks.keys), _filled(value, blocks.keys))
    segments = None
    if blocks.keys > keys:
        filling = jnp.arange(blocks.keys) >= keys
        segments = splash.SegmentIds(jnp.zeros(blocks.queries, jnp.int32), filling.astype(jnp.int32))
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(*arrays, segments)
    return out[:, :, :tokens].swapaxes(1, 2)


def _blocks(tokens: int, keys: int, size: int, itemsize: int) -> _Blocks:
    lanes = _up(size, _LANES)
    most = _COMPUTE // (lanes * itemsize)
    query = _compute_block(tokens, most)
    # Of a key: two sums in float32; two results along lanes and two inputs along sublanes, twice, as the next are on
    # their way.
    key_bytes = 8 * lanes + 4 * (lanes + _up(size, 16)) * itemsize
    fitting = max(_LANES, _BACKWARD // key_bytes)

    def split(parts: int) -> tuple[int, int]:
        """(tokens of a compute block, of a memory block) if keys are split into so many of the latter."""
        compute = _compute_block(-(-keys // parts), min(most, fitting))
        return compute, _up(-(-keys // parts), compute)

    least = -(-keys // fitting)
    candidates = [parts for parts in range(least, 2 * least + 2) if split(parts)[1] <= fitting]
    parts = min(candidates, key=lambda parts: parts * split(parts)[1])
    compute, backward = split(parts)
    at_once = max(1, _FORWARD // (lanes * itemsize * backward))
    forward = backward * max(n for n in range(1, parts + 1) if parts % n == 0 and n <= at_once)
    return _Blocks(query, _up(tokens, query), compute, forward, backward, parts * backward)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _compute_block(tokens: int, most: int) -> int:
    """How many tokens a block should have: at most ``most``, unless that is below the smallest."""
    blocks = range(_LANES, max(_LANES, min(_BLOCK, most)) + 1, _LANES)
    return min(blocks, key=lambda block: _up(tokens, block) * (1 + _BLOCK_COST / block))


def _filled(x: Float[Array, "b t n d"], tokens: int) -> Float[Array, "b n u d"]:
    """Zeros after the given tokens."""
    return jnp.pad(x, ((0, 0), (0, tokens - x.shape[1]), (0, 0), (0, 0))).swapaxes(1, 2)
