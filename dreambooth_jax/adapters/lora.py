# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The adapters of a run that trains LoRA, or DoRA."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.dora import DORA, Channels, magnitudes
from dreambooth_jax.adapters.kernels import Tensors, kernel_adapter
from dreambooth_jax.adapters.low_rank import LORA, first_factors
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import Layers


def lora(layers: Layers, *, ranks: Ranks, dora: Channels | None = None, dropout: float = 0.0) -> Adapter:
    """A product of two small matrices is added to each kernel.

    Args:
        layers: which kernels are changed.
        ranks: of the matrices, and what the product is multiplied by.
        dora: also train a length for each of a kernel's inputs, or outputs.
        dropout: share of the inputs of the first matrix that count nothing in training, each example's own.
    """

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors]:
        del name
        return start(key, kernel, ranks=ranks, dora=dora)

    return kernel_adapter(DORA if dora else LORA, first, layers, dropout=dropout)


def start(key: Key[Array, ""], kernel: Any, *, ranks: Ranks, dora: Channels | None = None) -> tuple[Tensors, Tensors]:
    """(alpha, what is trained) of a kernel at first; the arguments are those of :func:`lora`."""
    rank, alpha = ranks.of(kernel)
    dtype = jnp.promote_types(kernel.dtype, jnp.float32)
    trained = first_factors(key, kernel.shape, rank, dtype)
    if dora:
        trained["dora_scale"] = magnitudes(kernel, dora)
    return {"alpha": jnp.asarray(alpha, dtype)}, trained
