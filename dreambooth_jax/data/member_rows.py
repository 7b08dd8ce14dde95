# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rows of several members that take their steps together: those of one after the other, each as it has them alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dreambooth_jax.data.examples import Batch
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.streams import joined
from dreambooth_jax.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class MemberRows:
    """Batches of several members.

    Attributes:
        names: of the members.
        mixtures: of each its own.
    """

    names: Sequence[str]
    mixtures: Sequence[Mixture]

    def batch_at(self, step: int, rows: slice | Callable[[int], slice] = slice(None)) -> Batch:
        """[S·b, ...], one member after the other; ``index`` is the number of a row among its member's.

        Args:
            step: its number.
            rows: of each member, or a function that says which of so many.

        Raises:
            InputError: naming the member, if one's rows are of another shape than the first one's.
        """
        batches: list[Batch] = []
        for name, mixture in zip(self.names, self.mixtures):
            batch = mixture.batch_at(step, rows)
            if isinstance(batch, tuple) or (batches and _shapes(batch) != _shapes(batches[0])):
                raise InputError(
                    f"{name} cannot be trained in one step with {self.names[0]}: its rows have other shapes (pictures "
                    "of several sizes, or prompts of which some are much longer); train it apart"
                )
            batches.append(batch)
        return joined(batches)


def _shapes(batch: Batch) -> dict[str, object]:
    return {name: (values.shape, values.dtype) for name, values in batch.items()}
