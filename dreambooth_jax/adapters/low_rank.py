# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LoRA (Hu et al. 2021, arXiv 2106.09685): the product of two small matrices is added to a kernel.

    W' = W + (alpha / r) · down up          dense: down [in, r], up [r, out]

In convolutions ``down`` is one of the kernel's size and stride to r channels, [h, w, in, r], and ``up`` one of size 1,
[1, 1, r, out]. ``lora_mid`` [h, w, r, r], which some files have, stands between a ``down`` and an ``up`` of size 1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from dreambooth_jax.adapters.kernels import KernelMethod, Tensors
from dreambooth_jax.models.beside import Beside


def down_of(tensors: Tensors) -> Float[Array, "*size i r"]:
    """``lora_down``, with ``lora_mid`` where there is one."""
    down = tensors["lora_down"]
    if "lora_mid" not in tensors:
        return down
    return jnp.einsum("ir,hwrs->hwis", down.reshape(down.shape[-2:]), tensors["lora_mid"])


def up_of(tensors: Tensors) -> Float[Array, "r o"]:
    """``lora_up`` as a matrix, times alpha / r."""
    up = tensors["lora_up"]
    up = up.reshape(up.shape[-2:])
    return up * (tensors["alpha"] / up.shape[0]) if "alpha" in tensors else up


def low_rank_kernel(kernel: Any, tensors: Tensors) -> Array:
    """The kernel [in, out] or [h, w, in, out] with the product added to it."""
    return kernel + (down_of(tensors) @ up_of(tensors)).reshape(kernel.shape)


def low_rank_beside(kernel: Any, tensors: Tensors) -> Beside:
    """The same next to the layer."""
    down = down_of(tensors)
    return Beside(down.reshape(*kernel.shape[:-1], down.shape[-1]), up_of(tensors))


LORA = KernelMethod("lora", low_rank_kernel, low_rank_beside)


def first_factors(key: Key[Array, ""], shape: tuple[int, ...], rank: int, dtype: DTypeLike) -> dict[str, Array]:
    """``down`` uniform within 1 / √fan_in, as PyTorch's layers are at first; ``up`` zero.

    Args:
        key: to draw from.
        shape: of the kernel.
        rank: r.
        dtype: of both.
    """
    *inner, outputs = shape
    bound = 1 / math.sqrt(math.prod(inner))
    return {
        "lora_down": jax.random.uniform(key, (*inner, rank), dtype, -bound, bound),
        "lora_up": jnp.zeros((*[1] * (len(shape) - 2), rank, outputs), dtype),
    }
