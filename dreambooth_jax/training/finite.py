# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Nothing that is not finite is saved: the state is looked at before, in one program that reads it once.

The loss of a step tells of the weights before it, so that a last update which spoils them would go unseen.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from dreambooth_jax.training.metrics import NonFinite
from dreambooth_jax.training.state import TrainState


def check_state_finite(state: TrainState, step: int) -> None:
    """Wait for the state, and look at all of it: weights, moving average, moments.

    Raises:
        NonFinite: naming the first leaf with a NaN or an infinity, and the step.
    """
    parts = {"weight": state.trainable, "moving average": state.ema, "moment": state.opt_state}
    named = [
        (f"{part} {jax.tree_util.keystr(path, simple=True, separator='/')}", leaf)
        for part, tree in parts.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    bad = np.flatnonzero(~np.asarray(_finite([leaf for _, leaf in named])))
    if len(bad):
        raise NonFinite(f"the {named[bad[0]][0]} is not finite after step {step} ({len(bad)} of {len(named)} are not)")


@jax.jit
def _finite(leaves: list[Array]) -> Bool[Array, "n"]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
