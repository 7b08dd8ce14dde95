# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LiDB, the light form of HyperDreamBooth (Ruiz et al. 2023, § 4.1): low rank within fixed random bases.

    W' = W + A_aux A_train B_train B_aux        [in, a] [a, r] [r, b] [b, out]

A_aux has orthonormal columns, B_aux orthonormal rows. They are made from a seed, so that a file holds the seed and the
trained a · r + r · b numbers: 150 of a kernel of any size, in the paper. Tensors: ``lidb_down`` [a, r], ``lidb_up``
[r, b], ``lidb_seed`` (uint32); fixed, and not in files since they follow from the seed: ``lidb_down_aux``,
``lidb_up_aux``.

A basis of [n, a], made from the seed: draw n · a normal numbers in float32 with JAX's partitionable threefry2x32, from
the key of the seed folded in with 0 (A) or 1 (B); take the Q of their QR decomposition with a positive diagonal of R.
Rows of a convolution's A_aux are ordered (height, width, in). B_aux is the transpose of a basis [out, b].
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.kernels import Beside, KernelMethod, Tensors, is_convolution, kernel_adapter
from dreambooth_jax.adapters.targets import Layers
from dreambooth_jax.adapters.tensors import inputs_of, uniform, wide_dtype


def start(
    key: Key[Array, ""], kernel: Any, *, seed: int, rank: int = 1, down: int = 100, up: int = 50
) -> tuple[Tensors, Tensors]:
    """(fixed, trained) tensors that change nothing yet: the trained part of B is zero.

    Args:
        key: of the kernel.
        kernel: to be changed.
        seed: of the bases.
        rank: r.
        down, up: a and b; less where the kernel has no more inputs or outputs.
    """
    a, b, dtype = min(down, inputs_of(kernel)), min(up, kernel.shape[-1]), wide_dtype(kernel)
    trained = {"lidb_down": uniform(key, (a, rank), a, dtype), "lidb_up": jnp.zeros((rank, b), dtype)}
    seeded = {"lidb_seed": jnp.asarray(seed, jnp.uint32)}
    return seeded | bases(kernel, seeded | trained), trained


def basis(seed: Any, number: int, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Random orthonormal columns, the same on every machine up to rounding.

    Args:
        seed: uint32, may be traced.
        number: which of the seed's bases: 0 is A_aux, 1 the transpose of B_aux.
        rows, columns: no more columns than rows.
    """
    with jax.threefry_partitionable(True):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), number)
        drawn = jax.random.normal(key, (rows, columns), jnp.float32)
    q, r = jnp.linalg.qr(drawn)
    return q * jnp.where(jnp.diagonal(r) < 0, -1, 1)[None].astype(q.dtype)


def bases(kernel: Any, tensors: Tensors) -> dict[str, Any]:
    """``lidb_down_aux`` and ``lidb_up_aux`` of a kernel, in float32, by the seed and the shapes of its tensors."""
    seed, a, b = tensors["lidb_seed"], tensors["lidb_down"].shape[0], tensors["lidb_up"].shape[1]
    return {
        "lidb_down_aux": basis(seed, 0, inputs_of(kernel), a),
        "lidb_up_aux": basis(seed, 1, kernel.shape[-1], b).T,
    }


def factors(kernel: Any, tensors: Tensors) -> tuple[Float[Array, "i r"], Float[Array, "r o"]]:
    """The change as a product of two matrices, the first one's rows ordered (height, width, in)."""
    known = tensors if "lidb_down_aux" in tensors else bases(kernel, tensors)
    return known["lidb_down_aux"] @ tensors["lidb_down"], tensors["lidb_up"] @ known["lidb_up_aux"]


def _kernel(kernel: Any, tensors: Tensors) -> Float[Array, "..."]:
    down, up = factors(kernel, tensors)
    return kernel + (down @ up).reshape(kernel.shape)


def _beside(kernel: Any, tensors: Tensors) -> Beside:
    down, up = factors(kernel, tensors)
    return Beside(down=down.reshape(*kernel.shape[:-1], -1), up=up[None, None] if is_convolution(kernel) else up)


LIDB = KernelMethod("lidb", _kernel, _beside)


def lidb(layers: Layers, *, seed: int, down: int = 100, up: int = 50) -> Adapter:
    """The adapter of these layers, of rank 1; ``seed``, ``down`` and ``up`` are those of :func:`start`."""

    def first(key: Key[Array, ""], name: str, kernel: Any) -> tuple[Tensors, Tensors]:
        del name
        return start(key, kernel, seed=seed, down=down, up=up)

    return kernel_adapter(LIDB, first, layers)
