# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""DoRA (Liu et al. 2024, arXiv 2402.09353): directions by LoRA, and a length for each of a kernel's channels.

    W' = m · (W + ΔW) / ‖W + ΔW‖        the norm is of each input's numbers, or of each output's

``dora_scale`` m is [in, 1] or [1, out] ([1, 1, in, 1] or [1, 1, 1, out] of convolutions), and tells by its shape which.
PEFT has outputs; OneTrainer, A1111 and ComfyUI inputs, LyCORIS either. The norm counts as a constant when gradients
are taken (§ 4.3 of the paper), as everywhere.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.adapters.kernels import KernelMethod, Tensors
from dreambooth_jax.adapters.low_rank import down_of, low_rank_beside, low_rank_kernel, up_of
from dreambooth_jax.models.beside import Beside
from dreambooth_jax.models.parts import whole

Channels = Literal["input", "output"]

LENGTHS = r".*/dora_scale"
"""Names of lengths. Weight decay is not for them: they do not rest at 0, and would shrink what they are lengths of."""


def magnitudes(kernel: Any, channels: Channels) -> Array:
    """``dora_scale`` of a kernel as it is: the norms of its channels, in at least float32."""
    kept = len(kernel.shape) - (2 if channels == "input" else 1)
    shape = tuple(size if axis == kept else 1 for axis, size in enumerate(kernel.shape))
    return _norm(_wide(kernel), jax.ShapeDtypeStruct(shape, kernel.dtype))


def with_lengths(change: Callable[[Any, Tensors], Any]) -> Callable[[Any, Tensors], Array]:
    """A way to change a kernel, after which its channels get their lengths."""

    def changed(kernel: Any, tensors: Tensors) -> Array:
        new = change(_wide(kernel), tensors)
        return new * _factors(tensors["dora_scale"], _norm(new, tensors["dora_scale"]))

    return changed


def dora_beside(kernel: Any, tensors: Tensors) -> Beside:
    """The same next to the layer; of the changed kernel only the norms are made, without it."""
    scale = tensors["dora_scale"]
    factors = _factors(scale, _norm_beside(_wide(kernel), down_of(tensors), up_of(tensors), scale)).reshape(-1)
    low_rank = low_rank_beside(kernel, tensors)
    return low_rank._replace(inputs=factors) if _of_inputs(kernel, scale) else low_rank._replace(outputs=factors)


DORA = KernelMethod("dora", with_lengths(low_rank_kernel), dora_beside)


def _wide(kernel: Any) -> Array:
    kernel = whole(kernel)
    return jnp.asarray(kernel, jnp.promote_types(kernel.dtype, jnp.float32))


def _factors(scale: Array, norm: Array) -> Array:
    """m / norm; what is all zero stays so."""
    norm = jax.lax.stop_gradient(norm)
    return scale / jnp.where(norm > 0, norm, 1)


def _norm(kernel: Array, scale: Any) -> Array:
    """Over the axes that a ``dora_scale`` does not have."""
    axes = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=axes, keepdims=True))


def _of_inputs(kernel: Any, scale: Any) -> bool:
    return scale.shape[-2:] == (kernel.shape[-2], 1)


def _norm_beside(
    kernel: Float[Array, "*size i o"], down: Float[Array, "*size i r"], up: Float[Array, "r o"], scale: Array
) -> Array:
    """‖W + A B‖ = √(‖W‖² + 2 ⟨W, A B⟩ + ‖A B‖²): with products of r columns alone."""
    kernel, down, up = (jax.lax.stop_gradient(part) for part in (kernel, down.reshape(*kernel.shape[:-1], -1), up))
    axes = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
    squares = jnp.sum(jnp.square(kernel), axis=axes, keepdims=True)
    if _of_inputs(kernel, scale):
        more = jnp.sum(down * (2 * kernel @ up.T + down @ (up @ up.T)), axis=axes, keepdims=True)
    else:
        flat, columns = kernel.reshape(-1, kernel.shape[-1]), down.reshape(-1, down.shape[-1])
        more = jnp.sum(up * (2 * columns.T @ flat + (columns.T @ columns) @ up), axis=0).reshape(scale.shape)
    return jnp.sqrt(jnp.maximum(squares + more, 0))
