# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A LoRA from a fully tuned model: of each kernel's change, the part of the highest singular values.

    W' − W = U diag(σ) V        down = first r columns of U, up = first r rows of diag(σ) V        (Eckart & Young 1936)

No other LoRA of rank r is nearer to the tuned kernel: what is left out has the squared norm Σ σᵢ² over i > r.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dreambooth_jax.adapters.kernels import is_convolution
from dreambooth_jax.trees import Tree, flatten


class Extracted(NamedTuple):
    """What a network's change becomes.

    Attributes:
        tensors: path of a layer -> ``lora_down``, ``lora_up`` and ``alpha``, which is the rank.
        singular_values: path of a layer -> all σ of its change, falling; of every kernel that changed.
        spread: layers of these that are convolutions larger than 1x1.
        other: squared norm of what changed and is no kernel: biases, norms, embeddings. A LoRA has none of it.
    """

    tensors: Mapping[str, Mapping[str, np.ndarray]]
    singular_values: Mapping[str, np.ndarray]
    spread: frozenset[str]
    other: float


def extract(
    before: Tree,
    after: Tree,
    *,
    rank: int,
    conv_rank: int | None = None,
    clamp_quantile: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Extracted:
    """Decompose what became of a network.

    Args:
        before, after: parameters of the same network, of any float dtype; computed in at least float32, on the host.
        rank: of each layer, or less where the kernel has no more.
        conv_rank: of convolutions larger than 1x1; None is ``rank``, 0 leaves them as they were.
        clamp_quantile: numbers of both factors beyond this quantile of them are set to it, as sd-scripts does (0.99)
            against outliers; the result is then no longer the nearest. None does not.
        progress: is told (layers done, of how many).
    """
    old, new = flatten(before), flatten(after)
    changed = [name for name in old if not np.array_equal(_host(old[name]), _host(new[name]))]
    kernels = [name for name in changed if name.rpartition("/")[2] == "kernel"]
    tensors, values, spread = {}, {}, set()
    for done, name in enumerate(kernels):
        progress(done, len(kernels))
        path = name.removesuffix("/kernel")
        change = _host(new[name]) - _host(old[name])
        left, sigma, right = singular(change.reshape(-1, change.shape[-1]))
        values[path] = sigma
        is_spread = is_convolution(change) and change.shape[:2] != (1, 1)
        spread |= {path} if is_spread else set()
        r = min(rank if conv_rank is None or not is_spread else conv_rank, len(sigma))
        if r:
            factors = left[:, :r], sigma[:r, None] * right[:r]
            tensors[path] = _tensors(*_clamped(factors, clamp_quantile), shape=change.shape)
    progress(len(kernels), len(kernels))
    rest = sum(float(np.sum(np.square(_host(new[n]) - _host(old[n])))) for n in changed if n not in kernels)
    return Extracted(tensors, values, frozenset(spread), rest)


def shares_kept(found: Sequence[Extracted], rank: int, conv_rank: int | None = None) -> tuple[float, float]:
    """(share of ‖ΔW‖² of all kernels that a rank keeps, share of the whole change, biases and norms included).

    Args:
        found: of each network.
        rank, conv_rank: as for :func:`extract`; they need not be those that were extracted.
    """

    def kept(one: Extracted) -> Iterator[float]:
        for path, sigma in one.singular_values.items():
            r = conv_rank if path in one.spread and conv_rank is not None else rank
            yield _energy(sigma[:r])

    inside = math.fsum(share for one in found for share in kept(one))
    kernels = math.fsum(_energy(sigma) for one in found for sigma in one.singular_values.values())
    whole = kernels + math.fsum(one.other for one in found)
    return inside / kernels if kernels else 1.0, inside / whole if whole else 1.0


def singular(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U, σ, V) of a matrix, σ falling.

    Of float32 by the eigenvectors of the smaller of MᵀM and MMᵀ in float64, several times faster and no less exact:
    what squaring loses of float64 is below float32's last digit. Where σ is 0, vectors are 0 on the larger side.
    """
    if matrix.dtype == np.float64:
        return np.linalg.svd(matrix, full_matrices=False)
    if matrix.shape[0] < matrix.shape[1]:
        right, sigma, left = singular(matrix.T)
        return left.T, sigma, right.T
    wide = matrix.astype(np.float64)
    squares, vectors = np.linalg.eigh(wide.T @ wide)
    sigma, right = np.sqrt(np.maximum(squares[::-1], 0)), vectors[:, ::-1].T
    left = (wide @ right.T) / np.where(sigma > 0, sigma, 1)
    left, sigma, right = (part.astype(matrix.dtype) for part in (np.where(sigma > 0, left, 0), sigma, right))
    return left, sigma, right


def _energy(sigma: np.ndarray) -> float:
    return float(np.sum(np.square(sigma, dtype=np.float64)))


def _host(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.promote_types(array.dtype, np.float32))


def _clamped(factors: tuple[np.ndarray, np.ndarray], quantile: float | None) -> tuple[np.ndarray, np.ndarray]:
    if quantile is None:
        return factors
    most = np.quantile(np.concatenate([factor.ravel() for factor in factors]), quantile)
    down, up = (np.clip(factor, -most, most) for factor in factors)
    return down, up


def _tensors(down: np.ndarray, up: np.ndarray, *, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Both factors as LoRA lays them out for a kernel of this shape."""
    *inner, outputs = shape
    rank = down.shape[1]
    return {
        "lora_down": down.reshape(*inner, rank),
        "lora_up": up.reshape(*[1] * (len(shape) - 2), rank, outputs),
        "alpha": np.asarray(rank, down.dtype),
    }
