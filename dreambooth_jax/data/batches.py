# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Of what a DreamBooth run's batches are: rows of the subjects, and with prior preservation as many of their classes.

With several concepts (subjects), each is shown as often as another, or as its photos' repeats say. Class rows follow
the same order of turns, so that each instance example brings one of its own concept's class with it:

    L = sum_k sum_{i of concept k} (mse_i + lambda_k mse_of_class_i) / n_instances
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.mixture import Mixture, Stream, Turns
from dreambooth_jax.data.turns import whole_shares
from dreambooth_jax.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class ConceptTables:
    """The examples of one concept.

    Attributes:
        name: of its streams; empty for the only one of a run.
        instance: its pictures.
        prior: pictures of its class, or None without prior preservation.
        prior_weight: lambda of its class images.
        repeats: how often each of its pictures comes in an epoch; None shows all concepts equally often.
    """

    name: str
    instance: ExampleTable
    prior: ExampleTable | None
    prior_weight: float
    repeats: int | None = None


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How many rows there are, whatever they hold.

    Attributes:
        rows: instance examples of each step, over all devices.
        with_prior: does a class example come with each?
        seed: that orders are drawn from.
    """

    rows: int
    with_prior: bool
    seed: int

    @property
    def copies(self) -> int:
        """Examples per instance example: with prior preservation a class example comes with each."""
        return 2 if self.with_prior else 1

    @property
    def examples(self) -> int:
        """Examples of each step, instance and class together."""
        return self.rows * self.copies

    def of(self, concepts: Sequence[ConceptTables]) -> Mixture:
        """Batches of these concepts; without prior preservation class images are left out."""
        shares = shares_of([one.instance.counts[0] for one in concepts], [one.repeats for one in concepts])
        with_prior = [i for i, one in enumerate(concepts) if self.with_prior and one.prior_weight and one.prior]
        streams = [self._turns("instance", concepts, range(len(concepts)), shares)]
        if with_prior:
            streams.append(self._turns("prior", concepts, with_prior, shares))
        return Mixture(streams=streams, seed=self.seed)

    def _turns(
        self, kind: str, concepts: Sequence[ConceptTables], chosen: Sequence[int], shares: Sequence[Fraction]
    ) -> Stream | Turns:
        """The stream of the only concept, or those of some that take turns."""
        taken = sum(shares[i] for i in chosen)
        streams = [
            Stream(
                name=f"{kind}/{concepts[i].name}" if concepts[i].name else kind,
                table=_table(concepts[i], kind),
                rows=self.rows,
                # where others have no class images, its own come more often, and weigh so much less
                weight=concepts[i].prior_weight * float(taken) if kind == "prior" else 1.0,
                is_prior=kind == "prior",
                concept=i if len(concepts) > 1 else None,
            )
            for i in chosen
        ]
        if len(concepts) == 1:
            return streams[0]
        return Turns(
            order="concepts", streams=streams, shares=whole_shares([shares[i] for i in chosen]), rows=self.rows
        )


def _table(concept: ConceptTables, kind: str) -> ExampleTable:
    table = concept.instance if kind == "instance" else concept.prior
    assert table is not None, "concepts without class images are left out"
    return table


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
