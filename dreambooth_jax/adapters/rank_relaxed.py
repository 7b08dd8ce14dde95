# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rank-relaxed fast tuning (HyperDreamBooth, Ruiz et al. 2023, § 4.4): a few steps of LoRA on top of a frozen LiDB.

    W' = W + A_aux A_train B_train B_aux + down up        the first product fixed, ``up`` zero at first

Both products together are one LoRA of the sum of their ranks: that is what a file holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.kernels import Beside, KernelMethod, Tensors, kernel_adapter
from dreambooth_jax.adapters.lidb import LIDB, bases, factors
from dreambooth_jax.adapters.low_rank import LORA, down_of, first_factors, up_of
from dreambooth_jax.adapters.tensors import wide_dtype


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    return LORA.kernel(LIDB.kernel(kernel, tensors), tensors)


def _concatenated(tensors: Tensors) -> tuple[Float[Array, "i r"], Float[Array, "r o"]]:
    down = down_of(tensors)
    parts = [factors(jnp.zeros((*down.shape[:-1], tensors["lora_up"].shape[-1])), tensors)]
    parts += [(down.reshape(-1, down.shape[-1]), up_of(tensors))]
    return jnp.concatenate([part[0] for part in parts], axis=1), jnp.concatenate([part[1] for part in parts])


def _as_lora(down: Float[Array, "i r"], up: Float[Array, "r o"], tensors: Tensors) -> dict[str, Any]:
    inner, ones = tensors["lora_down"].shape[:-1], tensors["lora_up"].shape[:-2]
    return {"lora_down": down.reshape(*inner, -1), "lora_up": up.reshape(*ones, *up.shape)}


def _beside(kernel: Any, tensors: Tensors) -> Beside:
    del kernel
    both = _as_lora(*_concatenated(tensors), tensors)
    return Beside(down=both["lora_down"], up=both["lora_up"])


def merged(tensors: Tensors) -> dict[str, Any]:
    """One LoRA that is both products, exactly: the singular value decomposition of their sum, made from the factors.

    Returns:
        ``lora_down``, whose columns are orthonormal, ``lora_up``, and ``alpha``, which is the rank: the sum of both,
        or less where the kernel has no more.
    """
    down, up = _concatenated(tensors)
    (left, inner), (right, outer) = jnp.linalg.qr(down), jnp.linalg.qr(up.T)
    u, sigma, v = jnp.linalg.svd(inner @ outer.T, full_matrices=False)
    return {
        **_as_lora(left @ u, (sigma[:, None] * v) @ right.T, tensors),
        "alpha": jnp.asarray(len(sigma), sigma.dtype),
    }


RANK_RELAXED = KernelMethod("rank_relaxed", _kernel, _beside)


def rank_relaxed(begun: Mapping[str, Tensors], *, rank: int) -> Adapter:
    """The adapter of the layers that a LiDB changes.

    Args:
        begun: path of a layer (``unet/mid_block/attentions_0/proj_in``) -> its LiDB's tensors.
        rank: of what is trained.
    """

    def layers(names: Sequence[str]) -> list[str]:
        return [name for name in names if name.endswith("/kernel") and name.removesuffix("/kernel") in begun]

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors]:
        dtype = wide_dtype(kernel)
        fixed = {
            tensor: jnp.asarray(value) if tensor == "lidb_seed" else jnp.asarray(value, dtype)
            for tensor, value in begun[name.removesuffix("/kernel")].items()
        }
        return fixed | bases(kernel, fixed), first_factors(key, kernel.shape, rank, dtype)

    return kernel_adapter(RANK_RELAXED, first, layers)
