# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Positions of a vision transformer's patches, for pictures of other sizes than it was trained with."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def positions_of(positions: Float[Array, "1 n c"], rows: int, columns: int) -> Float[Array, "1 t c"]:
    """Embeddings of the class token and of a grid of patches, from those of a square grid: bicubic, as transformers.

    DINO's own code passes a scale with 0.1 of a patch added to it instead of the size, so that it samples at places
    some hundredths of a patch off.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[0, 1:].reshape(side, side, -1)
    along = (jnp.asarray(cubic_weights(side, count), positions.dtype) for count in (rows, columns))
    moved = jnp.einsum("hi,wj,ijc->hwc", *along, grid)
    return jnp.concatenate([positions[:, :1], moved.reshape(1, rows * columns, -1)], axis=1)


def cubic_weights(size: int, count: int) -> Float[np.ndarray, "count size"]:
    """The matrix of a bicubic interpolation along one axis, as PyTorch's without antialiasing (a = −0.75)."""
    places = (np.arange(count) + 0.5) * size / count - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((count, size))
    for offset in range(-1, 3):
        x = np.abs(places - (first + offset))
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        # places beyond the border count for what lies on it
        np.add.at(weights, (np.arange(count), np.clip(first + offset, 0, size - 1)), np.where(x <= 1, near, far))
    return weights
