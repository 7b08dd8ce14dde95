# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What methods that change kernels have in common: starting values, scales, and the order of a kernel's numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from dreambooth_jax.adapters.kernels import Tensors, is_convolution


def scale(tensors: Tensors, rank: int) -> Any:
    """alpha / rank, and times ``scalar``, which some files have; 1 where there is neither, as tools read them."""
    by_rank = tensors["alpha"] / rank if "alpha" in tensors else 1.0
    return by_rank * tensors["scalar"] if "scalar" in tensors else by_rank


def wide_dtype(kernel: Any) -> jnp.dtype:
    """What a kernel's tensors are kept in: its own dtype, but at least float32."""
    return jnp.promote_types(kernel.dtype, jnp.float32)


def uniform(key: Key[Array, ""], shape: tuple[int, ...], fan_in: int, dtype: DTypeLike) -> Float[Array, "..."]:
    """Uniform in ±1/√fan_in: what PyTorch's layers, and the down projection of LoRA, start with."""
    bound = 1 / math.sqrt(max(fan_in, 1))
    return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)


def inputs_of(kernel: Any) -> int:
    """Numbers that one output is a sum over: i, or height · width · i."""
    return math.prod(kernel.shape[:-1])


def as_matrix(kernel: Any) -> Float[Array, "i o"]:
    """[i, o] as it is; [height, width, in, out] as [height · width · in, out]."""
    return kernel.reshape(-1, kernel.shape[-1])


def from_pytorch_rows(matrix: Any, kernel: Any) -> Float[Array, "..."]:
    """A kernel of a matrix whose rows are ordered as PyTorch's flattened convolutions are: (in, height, width).

    Args:
        matrix: with as many numbers as the kernel.
        kernel: what has the shape of the result.
    """
    if not is_convolution(kernel):
        return matrix.reshape(kernel.shape)
    height, width, inputs, outputs = kernel.shape
    return jnp.transpose(matrix.reshape(inputs, height, width, outputs), (1, 2, 0, 3))
