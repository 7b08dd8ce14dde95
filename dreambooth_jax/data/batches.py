# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Of what a DreamBooth run's batches are: rows of the subjects, and with prior preservation as many of their classes.

With several concepts (subjects), each is shown as often as another, or as its photos' repeats say. Class rows follow
the same order of turns, so that each instance example brings one of its own concept's class with it; where pictures
have several sizes, as many on the average:

    L = sum_k sum_{i of concept k} (w_k w_i mse_i + lambda_k mse_of_class_i) / n_instances

Weights are not divided by their sum: a picture of weight 2 has twice the gradient, whatever others weigh.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.streams import Stream, Turns
from dreambooth_jax.data.turns import whole_shares
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size


@dataclass(frozen=True, kw_only=True, eq=False)
class ConceptTables:
    """The examples of one concept.

    Attributes:
        name: of its streams; empty for the only one of a run.
        instance: its pictures, those of each size in a table of their own.
        prior: pictures of its class, or None without prior preservation.
        prior_weight: lambda of its class images.
        instance_weight: of its own pictures' loss, times each one's own.
        repeats: how often each of its pictures comes in an epoch; None shows all concepts equally often.
        lessons: in the place of class images, its pictures as a teacher sees them, of the same sizes as ``instance``.
    """

    name: str
    instance: Sequence[ExampleTable]
    prior: ExampleTable | None
    prior_weight: float
    repeats: int | None = None
    instance_weight: float = 1.0
    lessons: Sequence[ExampleTable] = ()

    @property
    def count(self) -> int:
        """Its pictures, of all sizes."""
        return sum(table.counts[0] for table in self.instance)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How many rows there are, whatever they hold.

    Attributes:
        rows: instance examples of each step, over all devices.
        with_prior: does a class example come with each?
        seed: that orders are drawn from.
        stretches: of a batch, one after the other, that each have their share of class examples; by default those come
            after all others.
    """

    rows: int
    with_prior: bool
    seed: int
    stretches: int = 1

    @property
    def copies(self) -> int:
        """Examples per instance example: with prior preservation a class example comes with each."""
        return 2 if self.with_prior else 1

    @property
    def examples(self) -> int:
        """Examples of each step, instance and class together."""
        return self.rows * self.copies

    def shared_out(self, *, devices: int, accumulation: int) -> "Batches | None":
        """The same where each device has its share of class examples, as the second half of every micro-batch; None if
        the numbers do not allow it."""
        return None if self.rows % (devices * accumulation) else replace(self, stretches=devices)

    def of(self, concepts: Sequence[ConceptTables]) -> Mixture:
        """Batches of these concepts; without prior preservation class images are left out."""
        shares = shares_of([one.count for one in concepts], [one.repeats for one in concepts])
        sizes = dict.fromkeys(table.size for one in concepts for table in one.instance)
        of_size = [self._pictures(concepts, size, shares, suffix=len(sizes) > 1) for size in sizes]
        streams = [turns for turns, _ in of_size]
        if self.with_prior and any(one.lessons for one in concepts):
            streams += [self._pictures(concepts, size, shares, suffix=len(sizes) > 1, prior=True)[0] for size in sizes]
        with_prior = [i for i, one in enumerate(concepts) if self.with_prior and one.prior_weight and one.prior]
        if with_prior:
            streams.append(self._class_images(concepts, with_prior, shares))
        return Mixture(
            streams=streams,
            seed=self.seed,
            size_shares=[share for _, share in of_size],
            stretches=self.stretches,
        )

    def _pictures(
        self,
        concepts: Sequence[ConceptTables],
        size: Size,
        shares: Sequence[Fraction],
        *,
        suffix: bool,
        prior: bool = False,
    ) -> tuple[Stream | Turns, Fraction]:
        """(the pictures of one size, or their lessons, and their share in the steps): each picture of a concept comes
        as often as another."""
        end, kind = f"@{size.setting}" if suffix else "", "prior" if prior else "instance"
        streams, parts = [], []
        for i, concept in enumerate(concepts):
            for table in concept.lessons if prior else concept.instance:
                if table.size == size:
                    stream = Stream(
                        name=_name(kind, concept) + end,
                        table=table,
                        rows=self.rows,
                        weight=concept.prior_weight if prior else concept.instance_weight,
                        is_prior=prior,
                        concept=i if len(concepts) > 1 else None,
                    )
                    streams.append(stream)
                    parts.append(shares[i] * Fraction(table.counts[0], concept.count))
        if prior and not suffix:  # where others have no lessons, these come more often, and weigh less
            streams = [replace(stream, weight=stream.weight * float(sum(parts))) for stream in streams]
        return self._turns(streams, parts, order=f"concepts{end}"), sum(parts, Fraction(0))

    def _class_images(
        self, concepts: Sequence[ConceptTables], chosen: Sequence[int], shares: Sequence[Fraction]
    ) -> Stream | Turns:
        """Class images of the chosen concepts. Where others have none, theirs come more often, and weigh less."""
        parts = [shares[i] for i in chosen]
        streams = [
            Stream(
                name=_name("prior", concepts[i]),
                table=table,
                rows=self.rows,
                weight=concepts[i].prior_weight * float(sum(parts)),
                is_prior=True,
                concept=i if len(concepts) > 1 else None,
            )
            for i in chosen
            if (table := concepts[i].prior) is not None
        ]
        return self._turns(streams, parts, order="concepts")

    def _turns(self, streams: Sequence[Stream], parts: Sequence[Fraction], *, order: str) -> Stream | Turns:
        if len(streams) == 1:
            return streams[0]
        return Turns(order=order, streams=streams, shares=whole_shares(parts), rows=self.rows)


def _name(kind: str, concept: ConceptTables) -> str:
    return f"{kind}/{concept.name}" if concept.name else kind


def shares_of(counts: Sequence[int], repeats: Sequence[int | None]) -> list[Fraction]:
    """The share of each concept in all instance examples, of which it has so many; together 1.

    Raises:
        InputError: if some have repeats and others have none.
    """
    if len({one is None for one in repeats}) > 1:
        raise InputError(
            "repeats are said of some concepts only: say them of all, or of none to show all equally often"
        )
    weights = [1 if times is None else times * count for count, times in zip(counts, repeats)]
    return [Fraction(weight, sum(weights)) for weight in weights]
