# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LoHa: the elementwise product of two low-rank matrices is added to a kernel (Hyeon-Woo et al. 2021, FedPara).

    W' = W + alpha / r · (B₁ A₁) ⊙ (B₂ A₂)        in PyTorch's layout, of a rank up to r²

Tensors, laid out as kernels are: ``hada_w1_a``, ``hada_w2_a`` [r, out], ``hada_w1_b``, ``hada_w2_b`` [in, r], where
in counts (in, height, width) of a convolution; ``alpha``. Files may have a Tucker core for convolutions,
``hada_t1``, ``hada_t2`` [height, width, r, r], and then ``hada_w*_a`` are [out, r].
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.dora import with_lengths
from dreambooth_jax.adapters.kernels import KernelMethod, Tensors, kernel_adapter
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import from_pytorch_rows, inputs_of, scale, wide_dtype


def start(key: Key[Array, ""], kernel: Any, *, rank: int, alpha: float) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet: the second product is zero."""
    inputs, outputs, dtype = inputs_of(kernel), kernel.shape[-1], wide_dtype(kernel)

    def normal(name: str, shape: tuple[int, int], deviation: float) -> Float[Array, "..."]:
        return deviation * jax.random.normal(rng.stream(key, name), shape, dtype)

    return {"alpha": jnp.asarray(alpha, dtype)}, {
        "hada_w1_a": normal("hada_w1_a", (rank, outputs), 0.1),
        "hada_w1_b": normal("hada_w1_b", (inputs, rank), 1.0),
        "hada_w2_a": jnp.zeros((rank, outputs), dtype),
        "hada_w2_b": normal("hada_w2_b", (inputs, rank), 1.0),
    }


def _half(tensors: Tensors, number: int, kernel: Any) -> Float[Array, "..."]:
    a, b = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
    core = tensors.get(f"hada_t{number}")
    if core is None:
        return from_pytorch_rows(b @ a, kernel)
    return jnp.einsum("hwji,cj,oi->hwco", core, b, a)


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    rank = tensors["hada_w1_b"].shape[1]
    return kernel + scale(tensors, rank) * _half(tensors, 1, kernel) * _half(tensors, 2, kernel)


LOHA = KernelMethod("loha", _kernel)
LOHA_WITH_DORA = KernelMethod("loha with dora", with_lengths(_kernel))
"""What files of LyCORIS may hold."""


def loha(layers: Layers, *, ranks: Ranks) -> Adapter:
    """The adapter of these layers."""

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors]:
        del name
        rank, alpha = ranks.of(kernel)
        return start(key, kernel, rank=rank, alpha=alpha)

    return kernel_adapter(LOHA, first, layers)
