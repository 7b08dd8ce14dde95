# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""BOFT (Liu et al. 2023, arXiv 2311.06243), as LyCORIS stores it: outputs are rotated in blocks, stage after stage, and
in between put into another order, as a fast Fourier transform has it.

    W' = Pₘᵀ Rₘ Pₘ ... P₂ᵀ R₂ P₂ P₁ᵀ R₁ P₁ W        in PyTorch's layout; each R is block-diagonal and orthogonal

Stage i gathers outputs that are 2ⁱ · size / 2 apart into one block. R is made of its block as OFT's is (``oft.py``).
Tensors in files: ``oft_blocks`` [stages, blocks, size, size], and ``alpha`` and ``rescale`` as OFT has them. No run
trains it.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.adapters.kernels import KernelMethod, Tensors
from dreambooth_jax.adapters.oft import bounded, rotation_less_identity


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    blocks = jnp.transpose(tensors["oft_blocks"], (3, 2, 0, 1))  # as in files: four axes are taken for a convolution's
    blocks = blocks.astype(jnp.promote_types(blocks.dtype, jnp.float32))
    stages, count, size, _ = blocks.shape
    q = (blocks - jnp.swapaxes(blocks, -1, -2)).reshape(stages * count, size, size)
    if "alpha" in tensors:
        q = bounded(q, tensors["alpha"] * kernel.shape[-1])
    turned = rotation_less_identity(q).reshape(stages, count, size, size)
    *inner, outputs = kernel.shape
    changed = kernel
    for stage, rotation in enumerate(turned):
        apart = changed.reshape(*inner, -1, 2, 2**stage * (size // 2))
        gathered = jnp.swapaxes(apart, -1, -2)
        change = jnp.einsum("knm,...km->...kn", rotation, gathered.reshape(*inner, count, size))
        changed = changed + jnp.swapaxes(change.reshape(gathered.shape), -1, -2).reshape(kernel.shape)
    if "rescale" in tensors:
        changed = changed * tensors["rescale"].reshape(*[1] * len(inner), outputs)
    return changed


BOFT = KernelMethod("boft", _kernel)
