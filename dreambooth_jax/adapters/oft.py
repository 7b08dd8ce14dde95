# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""OFT: blocks of a kernel's outputs are rotated (Qiu et al. 2023; block-diagonal, as LyCORIS and sd-scripts store it).

    Q = B − Bᵀ        R = (I + Q) (I − Q)⁻¹        W'ₖ = Rₖᵀ Wₖ        in PyTorch's layout, of the k-th block of outputs

R is orthogonal (Cayley), so angles between the outputs' weights stay. Tensors: ``oft_blocks`` B [blocks, size, size],
zero at first; in files also ``alpha``, which bounds the norm of all Q by alpha · out where it is above 0, and
``rescale`` [out], which then multiplies each output.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.kernels import KernelMethod, Tensors, kernel_adapter
from dreambooth_jax.adapters.lokr import factorization
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import wide_dtype


def start(kernel: Any, *, block_size: int, constraint: float = 0.0) -> tuple[Tensors, Tensors] | None:
    """(fixed, trained) tensors that change nothing yet, or None where blocks would be single numbers.

    Args:
        kernel: to be changed.
        block_size: outputs per block, by :func:`factorization`: one of both factors where it divides the outputs.
        constraint: bounds the norm of Q by constraint · out; 0 does not.
    """
    size, blocks = factorization(kernel.shape[-1], block_size)
    if size == 1:
        return None
    dtype = wide_dtype(kernel)
    return {"alpha": jnp.asarray(constraint, dtype)}, {"oft_blocks": jnp.zeros((blocks, size, size), dtype)}


def bounded(q: Float[Array, "blocks n n"], most: Any) -> Float[Array, "blocks n n"]:
    """Made as small as to have that norm, all blocks together, where it is above 0."""
    squares = jnp.sum(q**2)
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1)) + 1e-8  # of zero, the root has no derivative
    return jnp.where((most > 0) & (squares > 0) & (norm > most), q * most / norm, q)


def rotation_less_identity(q: Float[Array, "blocks n n"]) -> Float[Array, "blocks n n"]:
    """R − I = 2 Q (I − Q)⁻¹ of skew-symmetric Q: small where Q is, with no digits lost to the identity."""
    identity = jnp.eye(q.shape[-1], dtype=q.dtype)[None]
    return jnp.swapaxes(jnp.linalg.solve(identity + q, -2 * q), -1, -2)


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    blocks = tensors["oft_blocks"].astype(jnp.promote_types(tensors["oft_blocks"].dtype, jnp.float32))
    q = blocks - jnp.swapaxes(blocks, -1, -2)
    if "alpha" in tensors:
        q = bounded(q, tensors["alpha"] * kernel.shape[-1])
    apart = kernel.reshape(*kernel.shape[:-1], *blocks.shape[:2])
    change = jnp.einsum("knm,...kn->...km", rotation_less_identity(q), apart)
    changed = kernel + change.reshape(kernel.shape)
    if "rescale" in tensors:
        changed = changed * tensors["rescale"].reshape(*[1] * (len(kernel.shape) - 1), -1)
    return changed


OFT = KernelMethod("oft", _kernel)


def oft(layers: Layers, *, block_size: int, constraint: float = 0.0) -> Adapter:
    """The adapter of these layers; ``block_size`` and ``constraint`` are those of :func:`start`."""

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors] | None:
        del key, name
        return start(kernel, block_size=block_size, constraint=constraint)

    return kernel_adapter(OFT, first, layers)
