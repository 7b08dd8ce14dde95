# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What an error of a single number costs: its square, or less than that where it is large.

    huber       2 δ (√(e² + δ²) − δ)      e² where |e| ≪ δ,         2 δ |e| where |e| ≫ δ
    smooth_l1   2 (√(e² + δ²) − δ)        e² / δ where |e| ≪ δ,     2 |e| where |e| ≫ δ

Pseudo-Huber losses with a δ of each timestep (arXiv 2403.16728), as in Kohya's sd-scripts: pictures with faults, whose
errors are large, pull less.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

Errors = Float[Array, "b *shape"]
Penalty = Callable[[Errors, Float[Array, "b"]], Errors]
"""(errors, δ of each example) -> what they cost."""


def huber(error: Errors, delta: Float[Array, "b"]) -> Errors:
    """Close to the square where it is small; written so that nothing cancels."""
    delta = delta.reshape(-1, *(1,) * (error.ndim - 1)).astype(error.dtype)
    return 2 * delta * jnp.square(error) / (jnp.sqrt(jnp.square(error) + jnp.square(delta)) + delta)


def smooth_l1(error: Errors, delta: Float[Array, "b"]) -> Errors:
    """Close to twice the magnitude where it is large; a δ above 0."""
    delta = delta.reshape(-1, *(1,) * (error.ndim - 1)).astype(error.dtype)
    return 2 * jnp.square(error) / (jnp.sqrt(jnp.square(error) + jnp.square(delta)) + delta)


PENALTIES: dict[str, Penalty] = {"huber": huber, "smooth_l1": smooth_l1}
"""Those that have a δ, by name."""


def deltas(
    schedule: Literal["constant", "exponential", "snr"], delta: float, snr: Float64[np.ndarray, "T"]
) -> Float64[np.ndarray, "T"]:
    """δ of each timestep.

    Args:
        schedule: ``constant`` is ``delta`` everywhere; ``exponential`` falls from 1 without noise to ``delta``, as
            δ^(t / T); ``snr`` is (1 − δ) / (1 + σ)² + δ of the noise σ = 1 / √SNR of unscaled data.
        delta: the smallest, above 0.
        snr: signal-to-noise ratio of each timestep.
    """
    if schedule == "constant":
        return np.full(len(snr), delta, np.float64)
    if schedule == "exponential":
        return delta ** (np.arange(len(snr)) / len(snr))
    with np.errstate(divide="ignore"):
        sigma = 1 / np.sqrt(snr)
    return (1 - delta) / (1 + sigma) ** 2 + delta
