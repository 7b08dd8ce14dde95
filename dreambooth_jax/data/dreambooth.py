# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The batch as a pure function of the step.

    batch = B instance examples || B class examples          weight_i = 1 || lambda
    loss  = sum_i weight_i mse_i / B                         is the paper's loss, on any number of devices

Row b of a stream is example number c = step * B + b of an endless order, in which epoch c // n is a permutation of the
n examples of its own. So every example comes once per epoch, a set smaller than the batch simply cycles, and a run
resumes with nothing but the step. In the same way an example's visits go through its views: in V epochs every view of
every example is seen once.

Both orders are drawn from names (seed, stream, epoch), so rows may be computed apart: a host asks for its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from dreambooth_jax.data import host_rng
from dreambooth_jax.errors import InputError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleTable:
    """n pictures, each in v views, as moments of their latents (scaled); and their u different texts."""

    mean: Float[np.ndarray, "n v h w c"]
    logvar: Float[np.ndarray, "n v h w c"]
    text: Mapping[str, Shaped[np.ndarray, "u ..."]]
    """Different texts, stored once: ``text_states`` [u, 77, d], ``input_ids`` [u, 77], or both."""
    text_index: Int[np.ndarray, "n"]
    """Which of the texts an example has."""

    def take(self, example: Int[np.ndarray, "b"], view: Int[np.ndarray, "b"]) -> Batch:
        """Moments [b, h, w, c] and texts of the given examples, in the given views."""
        texts = {name: rows[self.text_index[example]] for name, rows in self.text.items()}
        return {"mean": self.mean[example, view], "logvar": self.logvar[example, view], **texts}

    @property
    def size(self) -> tuple[int, int]:
        """(n, v)."""
        return self.mean.shape[0], self.mean.shape[1]


def visit_order(
    counter: Int[np.ndarray, "b"], *, size: tuple[int, int], seed: int, stream: str
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    """(example, view) at the given places of a stream's endless order, for (n, v) examples and views."""
    n, v = size
    epoch, place = counter // n, counter % n
    example = np.empty_like(counter)
    for e in np.unique(epoch).tolist():
        example[epoch == e] = host_rng.permutation(n, seed, stream, "examples", e)[place[epoch == e]]
    visits = zip(example.tolist(), epoch.tolist())
    view = [host_rng.permutation(v, seed, stream, "views", i, e // v)[e % v] for i, e in visits]
    return example, np.array(view, counter.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class DreamBoothData:
    """The subject's pictures, the class's, and how they are mixed."""

    instance: ExampleTable
    prior: ExampleTable | None = None
    """Class pictures; None, or a weight of 0, leaves the prior term out of the batch."""
    batch_size: int
    """B: instance examples per step over all devices; as many class examples come on top."""
    prior_weight: float = 1.0
    """λ."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size {self.batch_size}: at least one instance example per step is needed")
        if not 0 <= self.prior_weight < float("inf"):
            raise InputError(f"prior weight {self.prior_weight}: must be a finite number that is not negative")

    @property
    def rows(self) -> int:
        """Rows of the global batch: B, or 2 B with the prior term."""
        return self.batch_size * (1 if self._prior is None else 2)

    @property
    def _prior(self) -> ExampleTable | None:
        return self.prior if self.prior_weight else None

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step, or some rows of it, in ascending host_rng.

        Returns:
            mean, logvar [b, h, w, c]; the texts; weight float32 [b] (1 or λ); is_prior bool [b]; index int32 [b], the
            number of the row in the global batch, from which its noise is drawn.
        """
        index = np.arange(self.rows, dtype=np.int32)[rows]
        is_prior = index >= self.batch_size
        counter = step * self.batch_size + index.astype(np.int64) % self.batch_size
        parts = [self._part(self.instance, "instance", counter[~is_prior])]
        if self._prior is not None:
            parts.append(self._part(self._prior, "prior", counter[is_prior]))
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        weight = np.where(is_prior, self.prior_weight, 1.0).astype(np.float32)
        return batch | {"weight": weight, "is_prior": is_prior, "index": index}

    def _part(self, table: ExampleTable, stream: str, counter: Int[np.ndarray, "b"]) -> Batch:
        return table.take(*visit_order(counter, size=table.size, seed=self.seed, stream=stream))
