# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The batch as a pure function of the step: rows of several streams of examples, one after the other.

    batch = rows of stream 1 || rows of stream 2 || ...        weight_i, is_prior_i: of the row's stream
    loss  = sum_i weight_i mse_i / n_instances                 n_instances: rows whose stream is not prior

DreamBooth with prior preservation (arXiv 2208.12242, equation 2) is two streams of B rows each: the subject's pictures
with weight 1, and the class's with weight lambda. Several subjects are as many streams, that take turns in the same B
rows (:class:`Turns`).

Where instance streams have several sizes, a step draws from those of one size: in a round of steps each size has as
many as its share of the instance examples, in an order of its own for each round. Prior streams are drawn from at every
step. Where their size is another, the batch has two parts, of one size each: the loss is a sum over rows, so parts add
up.

All orders are drawn from names (seed, stream, epoch), so rows may be computed apart: a host asks for its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Int

from dreambooth_jax.data.examples import Batch
from dreambooth_jax.data.streams import Stream, Turns, joined
from dreambooth_jax.data.turns import take_turns, whole_shares
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Streams, and how a batch is put together from them.

    Attributes:
        streams: of instance examples and of class examples.
        seed: that orders are drawn from.
        size_shares: of each of ``sizes`` in the steps; by default of as many as there are examples.
        stretches: of a batch, one after the other, each of which has its share of the rows of every stream.

    Raises:
        InputError: without an instance stream, for two streams of one name, or if a batch of instances of one size had
            another number of rows than a batch of another.
    """

    streams: Sequence[Stream | Turns]
    seed: int = 0
    size_shares: Sequence[Fraction | int] | None = None
    stretches: int = 1

    def __post_init__(self) -> None:
        if odd := [stream.rows for stream in self.streams if stream.rows % self.stretches]:
            raise InputError(f"{odd[0]} rows of a stream cannot be shared out over {self.stretches} stretches")
        names = [name for stream in self.streams for name in _names(stream)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"two streams are called {twice[0]!r}: their order is drawn from the name, give each its own"
            )
        if not self._of_size:
            raise InputError("a mixture needs an instance stream, one that is not prior")
        if len({_rows(streams) for streams in self._of_size.values()}) > 1:
            raise InputError("instance streams of each size must have as many rows as another's")

    @cached_property
    def _of_size(self) -> dict[Size, list[Stream | Turns]]:
        """The instance streams of each size of latents, in their order."""
        instance = [stream for stream in self.streams if not stream.is_prior]
        sizes = dict.fromkeys(stream.size for stream in instance)
        return {size: [stream for stream in instance if stream.size == size] for size in sizes}

    def _prior(self, size: Size) -> list[Stream | Turns]:
        """The class streams of a step: of its size, where they have several; else those that there are."""
        prior = [stream for stream in self.streams if stream.is_prior]
        several = len({stream.size for stream in prior}) > 1
        return [stream for stream in prior if stream.size == size or not several]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of latents that instances have."""
        return tuple(self._of_size)

    @property
    def rows(self) -> int:
        """Rows of the global batch, of all its parts."""
        return self.n_instances + _rows(self._prior(self.sizes[0]))

    @property
    def n_instances(self) -> int:
        """Rows of the global batch that are not prior: the loss's denominator."""
        return _rows(self._of_size[self.sizes[0]])

    @cached_property
    def _shares(self) -> tuple[int, ...]:
        """Of each size, in the steps."""
        examples = [sum(one.examples for one in streams) for streams in self._of_size.values()]
        return whole_shares(self.size_shares or examples)

    def _visit(self, step: int) -> tuple[Size, int]:
        """The size of a step's instances, and how many steps before it had the same."""
        who, before = take_turns(np.array([step]), self._shares, self.seed, "sizes")
        return self.sizes[int(who[0])], int(before[0])

    def size_at(self, step: int) -> Size:
        """The size of the latents of a step's instances: the same on all hosts."""
        return self._visit(step)[0]

    def batch_at(self, step: int, rows: slice | Callable[[int], slice] = slice(None)) -> Batch | tuple[Batch, ...]:
        """The batch of a step, or some rows of each of its parts, in ascending order.

        Args:
            step: its number.
            rows: which, or a function that says so for a part of so many rows.

        Returns:
            mean, logvar [b, h, w, c]; the texts; weight float32 [b]; is_prior bool [b]; index int32 [b], the number of
            the row in the global batch, from which its noise is drawn. Where class images have another size, it is two
            such batches: the instances, and the class images.
        """
        size, visit = self._visit(step)
        parts: dict[Size, list[tuple[Stream | Turns, int]]] = {}
        prior = self._prior(size)
        of_size = len(prior) < sum(stream.is_prior for stream in self.streams)
        for stream in self.streams:
            if any(stream is one for one in (*self._of_size[size], *prior)):
                before = step if stream.is_prior and not of_size else visit
                parts.setdefault(stream.size, []).append((stream, before))
        batches, first = [], 0
        for part in parts.values():
            batches.append(self._part(part, first, rows))
            first += sum(stream.rows for stream, _ in part)
        return batches[0] if len(batches) == 1 else tuple(batches)

    def _part(
        self, streams: list[tuple[Stream | Turns, int]], start: int, rows: slice | Callable[[int], slice]
    ) -> Batch:
        """Rows of streams of one size, with how often each has been drawn from; the first has the number ``start``."""
        count = _rows([stream for stream, _ in streams])
        chosen = self._order([stream for stream, _ in streams])[rows(count) if callable(rows) else rows]
        parts, first = [], 0
        for stream, visit in streams:
            own = chosen[(chosen >= first) & (chosen < first + stream.rows)] - first
            if len(own):
                parts.append(stream.take(visit * stream.rows + own, seed=self.seed))
            first += stream.rows
        found = joined(parts)
        if self.stretches > 1:  # what is joined is in ascending order
            places = np.argsort(np.argsort(chosen))
            found = {name: values[places] for name, values in found.items()}
        return found | {"index": (start + chosen).astype(np.int32)}

    def _order(self, streams: Sequence[Stream | Turns]) -> Int[np.ndarray, "b"]:
        """The number of the row at each place of a part."""
        ends = np.cumsum([stream.rows for stream in streams])
        parts = [np.arange(end - stream.rows, end) for stream, end in zip(streams, ends)]
        return np.concatenate([part.reshape(self.stretches, -1) for part in parts], axis=1).ravel()


def _names(stream: Stream | Turns) -> list[str]:
    return [one.name for one in (stream.streams if isinstance(stream, Turns) else [stream])]


def _rows(streams: Sequence[Stream | Turns]) -> int:
    return sum(stream.rows for stream in streams)
