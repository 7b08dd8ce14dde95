# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Adapters of random numbers for the layers of a network, as files and as trees."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from dreambooth_jax.weights.adapters.methods import Module

Shape = tuple[int, ...]


def lora_tensors(shape: Shape, *, rank: int, alpha: float, r: np.random.Generator) -> dict[str, np.ndarray]:
    """Of one kernel: both factors random, so that none is zero."""
    *window, inputs, outputs = shape
    one = [1] * len(window)
    return {
        "lora_down": (0.3 * r.normal(size=(*window, inputs, rank))).astype(np.float32),
        "lora_up": (0.3 * r.normal(size=(*one, rank, outputs))).astype(np.float32),
        "alpha": np.float32(alpha),
    }


def dora_scale(kernel: np.ndarray, axis: str, r: np.random.Generator) -> np.ndarray:
    """Magnitudes near those of a kernel: one for each of its inputs or outputs."""
    kept = kernel.ndim - (1 if axis == "output" else 2)
    norm = np.sqrt(np.sum(np.square(kernel), axis=tuple(i for i in range(kernel.ndim) if i != kept), keepdims=True))
    return (norm * r.uniform(0.7, 1.4, norm.shape)).astype(np.float32)


def random_modules(
    kernels: Mapping[str, np.ndarray],
    paths: Iterable[str],
    *,
    method: str = "lora",
    rank: int = 3,
    alpha: float = 2.0,
    axis: str = "output",
    seed: int = 0,
    ranks: Callable[[str], int] | None = None,
) -> dict[str, Module]:
    """path -> module, for kernels by the paths of their layers."""
    r = np.random.default_rng(seed)
    found = {}
    for path in paths:
        own = ranks(path) if ranks else rank
        tensors = lora_tensors(kernels[path].shape, rank=own, alpha=alpha, r=r)
        if method == "dora":
            tensors["dora_scale"] = dora_scale(np.asarray(kernels[path]), axis, r)
        found[path] = Module(method, tensors)
    return found
