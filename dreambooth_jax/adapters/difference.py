# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Full fine-tuning of single kernels, as a difference that is added (LyCORIS' "full"): W' = W + diff.

Tensors: ``diff``, of the kernel's shape, zero at first. Custom Diffusion (Kumari et al. 2023) trains the keys' and the
values' kernels of the cross-attention so.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.kernels import KernelMethod, Tensors, kernel_adapter
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import wide_dtype


def start(kernel: Any) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet."""
    return {}, {"diff": jnp.zeros(kernel.shape, wide_dtype(kernel))}


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    return kernel + tensors["diff"]


DIFFERENCE = KernelMethod("diff", _kernel)


def difference(layers: Layers) -> Adapter:
    """The adapter of these layers."""
    return kernel_adapter(DIFFERENCE, lambda key, name, kernel: start(kernel), layers)
