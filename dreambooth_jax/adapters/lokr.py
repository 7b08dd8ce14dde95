# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LoKr: a Kronecker product is added to a kernel (Yeh et al. 2023, LyCORIS; Edalati et al. 2022, KronA).

    W' = W + alpha / r · w₁ ⊗ w₂        in PyTorch's layout: [l, m] ⊗ [k, n, ...] = [l k, m n, ...]

Tensors, laid out as kernels are: ``lokr_w1`` [m, l] or its factors ``lokr_w1_b`` [m, r], ``lokr_w1_a`` [r, l];
``lokr_w2`` [n, k] or [height, width, n, k], or its factors ``lokr_w2_b`` [n, r], ``lokr_w2_a`` [r, k], where n counts
(n, height, width) of a convolution; ``alpha``. Where neither is factored, the scale is 1. Files may have a Tucker core
``lokr_t2`` [height, width, r, r], and then ``lokr_w2_a`` is [k, r].
"""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.dora import with_lengths
from dreambooth_jax.adapters.kernels import KernelMethod, Tensors, is_convolution, kernel_adapter
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import scale, uniform, wide_dtype


def factorization(number: int, factor: int = -1) -> tuple[int, int]:
    """The two factors of a number of channels, the smaller first, as LyCORIS and PEFT choose them.

    Args:
        number: of channels.
        factor: what one factor shall be; where it does not divide the number, the nearest to a square whose smaller
            factor is at most this. -1 is the nearest to a square.
    """
    if factor > 0 and number % factor == 0:
        return min(factor, number // factor), max(factor, number // factor)
    most = number if factor < 0 else factor
    smaller = max(m for m in range(1, math.isqrt(number) + 1) if number % m == 0 and (m <= most or m == 1))
    return smaller, number // smaller


def start(
    key: Key[Array, ""], kernel: Any, *, rank: int, alpha: float, factor: int = -1, decompose_both: bool = False
) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet: w₂ is zero.

    Args:
        key: of the kernel.
        kernel: to be changed.
        rank: of the factors of w₂; where it is at least half of w₂'s larger side, w₂ is not factored.
        alpha: the scale is alpha / rank.
        factor: channels are split by :func:`factorization`, in and out alike.
        decompose_both: factor w₁, too, where the rank is smaller than half of its larger side.
    """
    (few_in, many_in), (few_out, many_out) = (factorization(n, factor) for n in kernel.shape[-2:])
    size, dtype = kernel.shape[:2] if is_convolution(kernel) else (), wide_dtype(kernel)

    def drawn(name: str, rows: int, columns: int) -> Float[Array, "rows columns"]:
        return uniform(rng.stream(key, name), (rows, columns), rows, dtype)

    trained = {}
    if decompose_both and rank < max(few_in, few_out) / 2:
        trained["lokr_w1_b"] = drawn("lokr_w1_b", few_in, rank)
        trained["lokr_w1_a"] = drawn("lokr_w1_a", rank, few_out)
    else:
        trained["lokr_w1"] = drawn("lokr_w1", few_in, few_out)
    if rank < max(many_in, many_out) / 2:
        trained["lokr_w2_b"] = jnp.zeros((many_in * math.prod(size), rank), dtype)
        trained["lokr_w2_a"] = drawn("lokr_w2_a", rank, many_out)
    else:
        trained["lokr_w2"] = jnp.zeros((*size, many_in, many_out), dtype)
    return {"alpha": jnp.asarray(alpha, dtype)}, trained


def _first(tensors: Tensors) -> Float[Array, "m l"]:
    return tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_b"] @ tensors["lokr_w1_a"]


def _second(tensors: Tensors, size: tuple[int, ...]) -> Float[Array, "..."]:
    """[n, k] of a dense layer, [height, width, n, k] of a convolution."""
    if "lokr_w2" in tensors:
        return tensors["lokr_w2"]
    a, b = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
    if "lokr_t2" in tensors:
        return jnp.einsum("hwji,cj,oi->hwco", tensors["lokr_t2"], b, a)
    product = b @ a
    return jnp.moveaxis(product.reshape(-1, *size, product.shape[1]), 0, -2) if size else product


def _scale(tensors: Tensors) -> Any:
    for factor in ("lokr_w1_b", "lokr_w2_b"):
        if factor in tensors:
            return scale(tensors, tensors[factor].shape[1])
    return 1.0


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    size = kernel.shape[:2] if is_convolution(kernel) else ()
    product = jnp.einsum("ml,...nk->...mnlk", _first(tensors), _second(tensors, size))
    return kernel + _scale(tensors) * product.reshape(kernel.shape)


LOKR = KernelMethod("lokr", _kernel)
LOKR_WITH_DORA = KernelMethod("lokr with dora", with_lengths(_kernel))
"""What files of LyCORIS may hold."""


def lokr(layers: Layers, *, ranks: Ranks, factor: int = -1, decompose_both: bool = False) -> Adapter:
    """The adapter of these layers; ``factor`` and ``decompose_both`` are those of :func:`start`."""

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors]:
        del name
        rank, alpha = ranks.of(kernel)
        return start(key, kernel, rank=rank, alpha=alpha, factor=factor, decompose_both=decompose_both)

    return kernel_adapter(LOKR, first, layers)
