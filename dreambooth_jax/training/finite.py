# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Nothing that is not finite is saved: the state is looked at before, in one program that reads it once.

The loss of a step tells of the weights before it, so that a last update which spoils them would go unseen.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from dreambooth_jax.training.metrics import NonFinite
from dreambooth_jax.training.state import TrainState


def check_state_finite(state: TrainState, step: int) -> None:
    """Wait for the state, and look at all of it: weights, moving average, moments.

    Raises:
        NonFinite: naming the first leaf with a NaN or an infinity, and the step.
    """
    named = _named(state)
    if said := _said(list(named), np.asarray(_finite([*named.values()])), step):
        raise NonFinite(said)


def members_not_finite(state: TrainState, step: int) -> dict[int, str]:
    """The same for a state of members, whose leaves are [S, ...]: what is not finite, by the numbers of members."""
    named = _named(state)
    mesh = getattr(state.step.sharding, "mesh", None)
    whole = NamedSharding(mesh, PartitionSpec()) if mesh else None  # members may lie with other processes
    finite = np.asarray(_members_finite([*named.values()], whole))
    said = {number: _said(list(named), own, step) for number, own in enumerate(finite.T)}
    return {number: what for number, what in said.items() if what}


def _named(state: TrainState) -> dict[str, Any]:
    """Leaves that may be not finite, by what they are."""
    parts = {"weight": state.trainable, "moving average": state.ema, "moment": state.opt_state}
    return {
        f"{part} {jax.tree_util.keystr(path, simple=True, separator='/')}": leaf
        for part, tree in parts.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }


def _said(names: list[str], finite: Bool[np.ndarray, "n"], step: int) -> str:
    bad = np.flatnonzero(~finite)
    return (
        f"the {names[bad[0]]} is not finite after step {step} ({len(bad)} of {len(names)} are not)" if len(bad) else ""
    )


@jax.jit
def _finite(leaves: list[Array]) -> Bool[Array, "n"]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])


@partial(jax.jit, static_argnums=1)
def _members_finite(leaves: list[Array], whole: NamedSharding | None) -> Bool[Array, "n S"]:
    found = jnp.stack([jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in leaves])
    return found if whole is None else jax.lax.with_sharding_constraint(found, whole)
