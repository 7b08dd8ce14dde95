# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rows of examples of one kind, as a pure function of the step.

Row b of a stream is example number c = visit * rows + b of an endless order, in which epoch c // n is a permutation of
the n examples of its own; visit counts the steps that drew from the stream before. So every example comes once per
epoch, a set smaller than the batch simply cycles, and a run resumes with nothing but the step. In the same way an
example's visits go through its views: in V epochs every view of every example is seen once.

All orders are drawn from names (seed, stream, epoch), so rows may be computed apart: a host asks for its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from jaxtyping import Int

from dreambooth_jax.data import host_rng
from dreambooth_jax.data.examples import Batch, ExampleTable
from dreambooth_jax.data.turns import take_turns
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size


def visit_order(
    counter: Int[np.ndarray, "b"], *, counts: tuple[int, int], seed: int, stream: str
) -> tuple[Int[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    """(example, view) at the given places of a stream's endless order, for (n, v) examples and views."""
    n, v = counts
    epoch, place = counter // n, counter % n
    example = np.empty_like(counter)
    for e in np.unique(epoch).tolist():
        example[epoch == e] = host_rng.permutation(n, seed, stream, "examples", e)[place[epoch == e]]
    visits = zip(example.tolist(), epoch.tolist())
    view = [host_rng.permutation(v, seed, stream, "views", i, e // v)[e % v] for i, e in visits]
    return example, np.array(view, counter.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Examples of one kind, of which every step that draws from them takes the same number of rows.

    Raises:
        InputError: for less than one row, or a weight that is not a finite number above 0.
    """

    name: str
    """Its order is drawn from this name: ``instance`` and ``prior`` are those of a plain DreamBooth run."""
    table: ExampleTable
    rows: int
    """Rows of each batch, over all devices."""
    weight: float = 1.0
    """Of each row in the loss, times its picture's own; λ for class images. A stream without weight is left out of the
    mixture."""
    is_prior: bool = False
    """Class images: their rows do not count in the loss's denominator, and are logged as ``prior_loss``."""
    concept: int | None = None
    """Number of its subject among several; its rows then bring it along."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"stream {self.name}: {self.rows} rows a step, but at least one is needed")
        if not (isfinite(self.weight) and self.weight > 0):
            raise InputError(f"stream {self.name}: weight {self.weight} must be a finite number above 0")

    def take(self, counter: Int[np.ndarray, "b"], *, seed: int) -> Batch:
        """Examples at the given places of the endless order, with weight float32 [b] and is_prior bool [b]."""
        example, view = visit_order(counter, counts=self.table.counts, seed=seed, stream=self.name)
        rows = {
            **self.table.take(example, view, self.table.texts_at(example, counter, seed, self.name)),
            "weight": np.float32(self.weight) * self.table.weights_of(example),
            "is_prior": np.full(len(counter), self.is_prior),
        }
        return rows if self.concept is None else rows | {"concept": np.full(len(counter), self.concept, np.int32)}

    @property
    def size(self) -> Size:
        """Height and width of its latents."""
        return self.table.size

    @property
    def examples(self) -> int:
        """How many it has."""
        return self.table.counts[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Turns:
    """Streams of one size that take turns in the same rows, each as often as its share says.

    Raises:
        InputError: for streams of different sizes or kinds.
    """

    order: str
    """Whose turn it is is drawn from this name; where it is the same, shares too, the same streams' turns coincide."""
    streams: Sequence[Stream]
    """Their own numbers of rows mean nothing here."""
    shares: Sequence[int]
    rows: int
    """Rows of each batch, of all of them together."""

    def __post_init__(self) -> None:
        if len({(one.size, one.is_prior) for one in self.streams}) > 1:
            raise InputError("streams that take turns must have one size, and all be prior or none")

    def take(self, counter: Int[np.ndarray, "b"], *, seed: int) -> Batch:
        """Examples at the given places, as :meth:`Stream.take` has them."""
        who, before = take_turns(counter, self.shares, seed, "turns", self.order)
        parts, places = [], []
        for number in np.unique(who).tolist():
            own = np.flatnonzero(who == number)
            parts.append(self.streams[number].take(before[own], seed=seed))
            places.append(own)
        back = np.argsort(np.concatenate(places))
        return {name: rows[back] for name, rows in joined(parts).items()}

    @property
    def size(self) -> Size:
        """Height and width of their latents."""
        return self.streams[0].size

    @property
    def is_prior(self) -> bool:
        """Whether they are of class images."""
        return self.streams[0].is_prior

    @property
    def examples(self) -> int:
        """How many they have together."""
        return sum(one.examples for one in self.streams)


def joined(parts: Sequence[Batch]) -> Batch:
    """Their rows, one part after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
