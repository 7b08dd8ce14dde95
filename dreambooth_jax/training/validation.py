# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The loss on held-out pictures, at fixed noise and timesteps, so that two values differ by the weights alone.

    V = 1/(n k) Σ_i Σ_j w(t_j) error(network(z_i at t_j, ε_ij), target)      t_j: quantiles of the trained timesteps

It estimates what ``instance_loss`` is on average, with far less noise than one step's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Array, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.data.examples import Batch, ExampleTable
from dreambooth_jax.training.objective import DenoisingObjective, Noising
from dreambooth_jax.trees import Tree

PATIENCE = 3
"""Validations in a row, all worse than the best one, after which a run is said to learn by heart."""


def rows_at_once(examples: int, devices: int) -> int:
    """Rows of a batch on each device, which should not see more than in a step.

    Args:
        examples: of a step.
        devices: that share these.
    """
    return max(examples // devices, 1)


def validation_batches(
    tables: Sequence[ExampleTable], timesteps: Int[np.ndarray, "n"], *, rows: int
) -> Iterator[Batch]:
    """Every picture, in its first view and with its first text, at every timestep; all batches of a size are as large.

    Args:
        tables: pictures, those of each size.
        timesteps: that each is seen at.
        rows: of a batch; the last of each size is filled up with rows of weight 0.
    """
    first = 0
    for table in tables:
        count = table.counts[0]
        picture = np.repeat(np.arange(count), len(timesteps))
        when = np.tile(timesteps, count)
        number = first + np.arange(len(picture))
        first += len(picture)
        for start in range(0, len(picture), rows):
            chosen = np.arange(start, start + rows)
            real = chosen < len(picture)
            chosen = np.minimum(chosen, len(picture) - 1)
            which = picture[chosen]
            yield {
                **table.take(which, np.zeros(rows, np.int64), table.text_index[which]),
                "weight": real.astype(np.float32),
                "is_prior": np.zeros(rows, bool),
                "index": number[chosen].astype(np.int32),
                "timesteps": when[chosen].astype(np.int32),
            }


def validation_loss(
    objective: DenoisingObjective, params: Tree, batch: dict[str, Array], key: Key[Array, ""], count: int
) -> Float[Array, ""]:
    """What a batch adds to the loss.

    Args:
        objective: of the run. Its noise is drawn as for training, but without perturbation.
        params: of its networks.
        batch: of :func:`validation_batches`.
        key: of all draws; an example's depend on its number alone.
        count: of all examples, of all batches.
    """
    plain = replace(objective, n_instances=count, noising=Noising(offset=objective.noising.offset))
    draws = plain.draw(batch, root_key=rng.stream(key, "validation"), step=0)
    return plain.loss(params, batch, draws._replace(timesteps=batch["timesteps"]))[0]


def loss_of_rows(
    objective: DenoisingObjective, count: int
) -> Callable[[Tree, dict[str, Array], Key[Array, ""]], Float[Array, "1"]]:
    """:func:`validation_loss` for ``map_rows``: of each device's rows, which add up to that of the batch."""

    def program(params: Tree, rows: dict[str, Array], key: Key[Array, ""]) -> Float[Array, "1"]:
        return validation_loss(objective, params, rows, key, count)[None]

    return program


@dataclass
class LossHistory:
    """Validation losses of a run, and what they say.

    Attributes:
        losses: (step, validation loss), by rising steps.
        trained: (step, training loss), by rising steps; may begin late in a run that was resumed.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    trained: list[tuple[int, float]] = field(default_factory=list)
    warned: bool = False

    @property
    def best(self) -> tuple[int, float]:
        """The first of the lowest."""
        return min(self.losses, key=lambda one: one[1])

    def overfits(self) -> str | None:
        """A warning, once, where the last validations were all worse than the best one before them, while the mean
        training loss since then has been lower than as long a stretch before."""
        if self.warned or len(self.losses) <= PATIENCE:
            return None
        step, least = min(self.losses[:-PATIENCE], key=lambda one: one[1])
        if any(loss <= least for _, loss in self.losses[-PATIENCE:]):
            return None
        now = self.losses[-1][0]
        before = [loss for at, loss in self.trained if 2 * step - now < at <= step]
        since = [loss for at, loss in self.trained if at > step]
        if not before or not since or np.mean(since) >= np.mean(before):
            return None
        self.warned = True
        return (
            f"the validation loss was lowest at step {step} ({least:.4g}) and is {self.losses[-1][1]:.4g} at step "
            f"{now}, while the training loss fell from {np.mean(before):.4g} to {np.mean(since):.4g}: the run learns "
            "its photos by heart"
        )
