# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the denoiser is told of prompts: of each one text, or of several that take turns in the course of a run."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dreambooth_jax.models.condition import Condition, Conditioner
from dreambooth_jax.trees import Tree


class Said(NamedTuple):
    """Prompts, for each text encoder."""

    ids: Mapping[str, Int[Array | np.ndarray, "b *texts_and_chunks s"]]
    """[b, s], or, with weights, those of v texts of k chunks, [b, v, k, s]."""
    weights: Mapping[str, Float[Array | np.ndarray, "b v k s"]] | None
    """Of tokens."""


def conditions_of(
    conditioner: Conditioner, params: Tree, sides: Mapping[str, Said], *, restore_mean: Bool[Array | np.ndarray, ""]
) -> dict[str, Condition]:
    """Of each side of guidance, all encoded in one batch.

    Returns:
        Leaves [b, ...], or [b, v, ...] of more than one text.
    """
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts) if parts[1:] else parts[0], *sides.values())
    leaves, structure = jax.tree.flatten(_encoded(conditioner, params, together, restore_mean=restore_mean))
    parts = zip(*(jnp.split(leaf, len(sides)) for leaf in leaves))
    return {name: jax.tree.unflatten(structure, part) for name, part in zip(sides, parts)}


def _encoded(
    conditioner: Conditioner, params: Tree, said: Said, *, restore_mean: Bool[Array | np.ndarray, ""]
) -> Condition:
    if said.weights is None:
        return conditioner(params, said.ids)
    count, texts = next(iter(said.ids.values())).shape[:2]
    ids, weights = jax.tree.map(lambda leaf: leaf.reshape(count * texts, *leaf.shape[2:]), tuple(said))
    condition = conditioner.of_chunks(params, ids, weights, restore_mean=restore_mean)
    if texts == 1:
        return condition
    return jax.tree.map(lambda leaf: leaf.reshape(count, texts, *leaf.shape[1:]), condition)


def chosen(conditions: Mapping[str, Condition], choice: Int[Array, "b sides"]) -> dict[str, Condition]:
    """Of each picture's texts one, for each side of guidance."""

    def one(leaf: Float[Array, "b v ..."], numbers: Int[Array, "b"]) -> Float[Array, "b ..."]:
        return jax.vmap(lambda texts, number: texts[number])(leaf, numbers)

    return {
        name: jax.tree.map(lambda leaf, i=i: one(leaf, choice[:, i]), condition)
        for i, (name, condition) in enumerate(conditions.items())
    }
