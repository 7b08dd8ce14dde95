# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""GLoRA (Chavan et al. 2023, arXiv 2306.07967), as LyCORIS stores it: inputs are mixed, and a product is added.

    W' = W + (alpha / r) · (W a₁ a₂ + b₁ b₂)        in PyTorch's layout, [out, in]

A convolution's inputs are mixed alike at each of its positions. No run trains it.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.adapters.kernels import KernelMethod, Tensors
from dreambooth_jax.adapters.low_rank import low_rank_kernel
from dreambooth_jax.adapters.tensors import scale


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    first, second = (tensors[name].reshape(tensors[name].shape[-2:]) for name in ("a1", "a2"))
    mixed = jnp.einsum("ir,rj,...jo->...io", second, first, kernel)
    added = {"lora_down": tensors["b2"], "lora_up": tensors["b1"]}
    if "bm" in tensors:
        added["lora_mid"] = tensors["bm"]
    change = low_rank_kernel(mixed, added)
    return kernel + scale(tensors, second.shape[-1]) * change


GLORA = KernelMethod("glora", _kernel)
