# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""SVDiff: the singular values of a kernel are shifted, its singular vectors stay (Han et al. 2023).

    W = U diag(σ) V        W' = U diag(max(σ + δ, 0)) V

A convolution's kernel is taken as a matrix [height · width · in, out]. Trained: ``delta`` δ [min(rows, columns)], in
the order of falling σ, zero at first. Fixed, and not in files since they follow from the kernel: ``left`` U,
``singular_values`` σ, ``right`` V.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.kernels import KernelMethod, Tensors, kernel_adapter
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import as_matrix, wide_dtype


def start(kernel: Any) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet: the kernel's singular vectors and values, and no shift."""
    fixed = _decomposed(kernel)
    return fixed, {"delta": jnp.zeros_like(fixed["singular_values"])}


def _decomposed(kernel: Any) -> dict[str, Any]:
    left, values, right = jnp.linalg.svd(as_matrix(jnp.asarray(kernel, wide_dtype(kernel))), full_matrices=False)
    return {"left": left, "singular_values": values, "right": right}


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    known = tensors if "left" in tensors else _decomposed(kernel)
    values = known["singular_values"]
    shift = jnp.maximum(values + tensors["delta"], 0) - values  # added to W, so that no shift changes no bit of it
    return kernel + ((known["left"] * shift[None]) @ known["right"]).reshape(kernel.shape)


SVDIFF = KernelMethod("svdiff", _kernel)


def svdiff(layers: Layers) -> Adapter:
    """The adapter of these layers. Beside them it keeps their singular vectors, which are larger than the kernels."""
    return kernel_adapter(SVDIFF, lambda key, name, kernel: start(kernel), layers)
