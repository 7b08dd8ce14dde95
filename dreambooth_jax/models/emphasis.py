# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Weights of words as A1111 gives them: on what the text encoder says.

    z' = w z,    and with the mean restored:    z'' = z' mean(z) / mean(z')

The mean is that of one chunk of one picture's prompt. A1111's is that of the whole batch, so that the weights of one
prompt change the pictures of the others; for one picture they are the same.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def emphasised(
    states: Float[Array, "n s d"], weights: Float[Array, "n s"], *, restore_mean: Bool[Array | np.ndarray, ""]
) -> Float[Array, "n s d"]:
    """States times the weights of their tokens. Where all weights are 1, states are what they were, bit for bit.

    Args:
        states: of chunks of prompts.
        weights: of their tokens.
        restore_mean: "Original" in A1111; without it "No norm".
    """
    weighted = states * weights[:, :, None].astype(states.dtype)
    before, after = (jnp.mean(z, axis=(1, 2), keepdims=True) for z in (states, weighted))
    restored = restore_mean & (after != 0)
    return weighted * jnp.where(restored, before / jnp.where(restored, after, 1), 1)
