# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""DreamBooth's loss, with prior preservation as data.

Equation 2 of arXiv 2208.12242 adds to the error on a picture of the subject λ times the error on a picture that the
frozen model made of the class, each with its own noise and timestep. Both kinds are rows of one batch:

    L = Σ_i w_i · error_i / n,    w_i = 1 or λ,    n = number of instance examples

Where pictures have weights of their own, w_i is multiplied by them; n stays what it is, so that a weight of 2 is twice
the gradient whatever else is in the batch, and 0 is none. A sum over rows, so it does not matter how rows are laid out
over devices and micro-batches; a weight that depends on the timestep, such as min-SNR, multiplies w_i of both terms.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Loss(NamedTuple):
    """``total`` is ``instance + prior``."""

    total: Float[Array, ""]
    instance: Float[Array, ""]
    prior: Float[Array, ""]


def example_errors(
    prediction: Float[Array, "b *shape"],
    target: Float[Array, "b *shape"],
    *,
    penalty: Callable[[Float[Array, "b *shape"]], Float[Array, "b *shape"]] = jnp.square,
    position_weight: Float[Array, "b ..."] | None = None,
) -> Float[Array, "b"]:
    """The mean error of each example, at least in float32.

    Weights of positions multiply errors before the mean over all positions, which is not divided by the weights' own
    mean, as in kohya's sd-scripts and OneTrainer's default: a photo whose mask is small counts less.

    Args:
        prediction: of the network, any float dtype.
        target: what it should be.
        penalty: what an error of each number costs.
        position_weight: of all channels at each position; None is 1.
    """
    dtype = jnp.promote_types(jnp.promote_types(prediction.dtype, target.dtype), jnp.float32)
    error = penalty(prediction.astype(dtype) - target.astype(dtype))
    if position_weight is not None:
        error = error * position_weight[..., None].astype(dtype)
    return jnp.mean(error, axis=tuple(range(1, error.ndim)))


def weighted_loss(
    errors: Float[Array, "b"], *, weight: Float[Array, "b"], is_prior: Bool[Array, "b"], n_instances: int
) -> Loss:
    """The loss of some rows of a step.

    Args:
        errors: of each example.
        weight: 1 for an instance example, λ for a class example, times what its picture and its timestep count.
        is_prior: which are class examples; only tells the two terms apart.
        n_instances: instance examples in the *whole* step, not only among these rows: losses of disjoint rows add up.
    """
    terms = weight * errors / n_instances
    instance, prior = jnp.sum(jnp.where(is_prior, 0, terms)), jnp.sum(jnp.where(is_prior, terms, 0))
    return Loss(total=instance + prior, instance=instance, prior=prior)


def loss_of_concepts(
    terms: Float[Array, "b"], concept: Int[Array, "b"], is_prior: Bool[Array, "b"], names: Sequence[str]
) -> dict[str, Float[Array, ""]]:
    """Of each of several subjects, what its instance examples add to the loss.

    Args:
        terms: of the rows: weight times error, divided by the step's number of instances.
        concept: number of each row's subject.
        is_prior: which are class examples.
        names: of the subjects, by number.
    """
    return {name: jnp.sum(jnp.where((concept == i) & ~is_prior, terms, 0)) for i, name in enumerate(names)}
