# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The batch as a pure function of the step: rows of several streams of examples, one after the other.

    batch = rows of stream 1 || rows of stream 2 || ...        weight_i, is_prior_i: of the row's stream
    loss  = sum_i weight_i mse_i / n_instances                 n_instances: rows whose stream is not prior

DreamBooth with prior preservation (arXiv 2208.12242, equation 2) is two streams of B rows each: the subject's pictures
with weight 1, and the class's with weight lambda. A second subject is one more stream.

Row b of a stream is example number c = visit * rows + b of an endless order, in which epoch c // n is a permutation of
the n examples of its own; visit counts the steps that drew from the stream before. So every example comes once per
epoch, a set smaller than the batch simply cycles, and a run resumes with nothing but the step. In the same way an
example's visits go through its views: in V epochs every view of every example is seen once.

A batch has one size. Where streams have several, a step draws from those of one size: in a round of steps each size has
as many as its share of the instance examples, in an order of its own for each round.

All orders are drawn from names (seed, stream, epoch), so rows may be computed apart: a host asks for its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd, isfinite

import numpy as np
from jaxtyping import Int

from dreambooth_jax.data import host_rng
from dreambooth_jax.data.examples import Batch, ExampleTable
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
    """Of each row in the loss; λ for class images. A stream without weight is left out of the mixture."""
    is_prior: bool = False
    """Class images: their rows do not count in the loss's denominator, and are logged as ``prior_loss``."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"stream {self.name}: {self.rows} rows a step, but at least one is needed")
        if not (isfinite(self.weight) and self.weight > 0):
            raise InputError(f"stream {self.name}: weight {self.weight} must be a finite number above 0")

    def take(self, counter: Int[np.ndarray, "b"], *, seed: int) -> Batch:
        """Examples at the given places of the endless order, with weight float32 [b] and is_prior bool [b]."""
        order = visit_order(counter, counts=self.table.counts, seed=seed, stream=self.name)
        weight = np.full(len(counter), self.weight, np.float32)
        return {**self.table.take(*order), "weight": weight, "is_prior": np.full(len(counter), self.is_prior)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Streams, and how a batch is put together from them.

    Raises:
        InputError: without an instance stream, for two streams of one name, or if a batch of one size had other numbers
            of rows than a batch of another.
    """

    streams: Sequence[Stream]
    seed: int = 0

    def __post_init__(self) -> None:
        names = [stream.name for stream in self.streams]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"two streams are called {twice[0]!r}: their order is drawn from the name, give each its own"
            )
        if not self.streams or not min(map(_instances, self._of_size.values())):
            raise InputError("a mixture needs an instance stream, one that is not prior, for each size of its streams")
        rows = {(sum(stream.rows for stream in streams), _instances(streams)) for streams in self._of_size.values()}
        if len(rows) > 1:
            raise InputError(
                "streams of each size must have as many rows, and as many that are not prior, as another's"
            )

    @cached_property
    def _of_size(self) -> dict[Size, list[Stream]]:
        """The streams of each size of latents, in their order."""
        sizes = dict.fromkeys(stream.table.size for stream in self.streams)
        return {size: [stream for stream in self.streams if stream.table.size == size] for size in sizes}

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of latents that batches have."""
        return tuple(self._of_size)

    @property
    def rows(self) -> int:
        """Rows of the global batch."""
        return sum(stream.rows for stream in self._of_size[self.sizes[0]])

    @property
    def n_instances(self) -> int:
        """Rows of the global batch that are not prior: the loss's denominator."""
        return _instances(self._of_size[self.sizes[0]])

    @cached_property
    def _round(self) -> Int[np.ndarray, "r"]:
        """Places in ``sizes``, each as often as a round of steps has it."""
        examples = [
            sum(stream.table.counts[0] for stream in streams if not stream.is_prior)
            for streams in self._of_size.values()
        ]
        return np.repeat(np.arange(len(examples)), np.asarray(examples) // gcd(*examples))

    def _visit(self, step: int) -> tuple[Size, int]:
        """The size of a step's batch, and how many steps before it had the same."""
        number, place = divmod(step, len(self._round))
        order = self._round[host_rng.permutation(len(self._round), self.seed, "sizes", number)]
        same = order == order[place]
        return self.sizes[order[place]], number * int(same.sum()) + int(same[:place].sum())

    def size_at(self, step: int) -> Size:
        """The size of the latents of a step's batch: the same on all hosts."""
        return self._visit(step)[0]

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step, or some rows of it, in ascending order.

        Returns:
            mean, logvar [b, h, w, c]; the texts; weight float32 [b]; is_prior bool [b]; index int32 [b], the number of
            the row in the global batch, from which its noise is drawn.
        """
        size, visit = self._visit(step)
        index = np.arange(self.rows, dtype=np.int32)[rows]
        parts, first = [], 0
        for stream in self._of_size[size]:
            own = index[(index >= first) & (index < first + stream.rows)].astype(np.int64) - first
            parts.append(stream.take(visit * stream.rows + own, seed=self.seed))
            first += stream.rows
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {"index": index}


def _instances(streams: Sequence[Stream]) -> int:
    return sum(stream.rows for stream in streams if not stream.is_prior)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Of what a DreamBooth run's batches are: rows of the subject, and with prior preservation as many of the class.

    Attributes:
        rows: instance examples of each step, over all devices.
        prior_weight: λ of the loss; 0 is no prior preservation.
        seed: that orders are drawn from.
    """

    rows: int
    prior_weight: float
    seed: int

    @property
    def copies(self) -> int:
        """Examples per instance example: with prior preservation a class example comes with each."""
        return 2 if self.prior_weight else 1

    @property
    def examples(self) -> int:
        """Examples of each step, instance and class together."""
        return self.rows * self.copies

    def of(self, *, instance: ExampleTable, prior: ExampleTable | None) -> Mixture:
        """Batches of these pictures; without prior preservation those of the class are left out."""
        streams = [Stream(name="instance", table=instance, rows=self.rows)]
        if prior is not None and self.prior_weight:
            streams.append(Stream(name="prior", table=prior, rows=self.rows, weight=self.prior_weight, is_prior=True))
        return Mixture(streams=streams, seed=self.seed)
