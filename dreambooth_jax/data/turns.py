# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who comes when several take turns, as a function of a counter: sizes of batches, subjects in the rows of a batch.

In a round, each has as many places as its share, in an order of its own for each round. So over any whole round each is
there exactly as often as it should be, and who has been there how often before needs no memory.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from jaxtyping import Int, Int64

from dreambooth_jax.data import host_rng

LONGEST_ROUND = 10_000
"""Places. Shares that would need more are rounded to this many."""


def whole_shares(shares: Sequence[Fraction | int]) -> tuple[int, ...]:
    """Whole numbers above 0 in the same proportions: exact where they add up to no more than ``LONGEST_ROUND``."""
    fractions = [Fraction(share) for share in shares]
    unit = lcm(*(share.denominator for share in fractions))
    exact = [int(share * unit) for share in fractions]
    exact = [share // gcd(*exact) for share in exact]
    if sum(exact) <= LONGEST_ROUND or len(exact) == 1:
        return tuple(exact)
    total = sum(exact)
    return tuple(max(1, round(Fraction(share * LONGEST_ROUND, total))) for share in exact)


def take_turns(
    counter: Int[np.ndarray, "b"], shares: Sequence[int], *name: host_rng.Name
) -> tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]:
    """(who, how often it has been before) at places of an endless order.

    Args:
        counter: places, from 0.
        shares: of each, as whole numbers above 0.
        name: that the orders of the rounds are drawn from.
    """
    places = np.repeat(np.arange(len(shares)), np.asarray(shares) // gcd(*shares))
    number, place = counter // len(places), counter % len(places)
    who, before = np.empty(len(counter), np.int64), np.empty(len(counter), np.int64)
    for one in np.unique(number).tolist():
        order = places[host_rng.permutation(len(places), *name, one)]
        for i in np.flatnonzero(number == one).tolist():
            who[i] = order[place[i]]
            same = order == who[i]
            before[i] = one * int(same.sum()) + int(same[: place[i]].sum())
    return who, before
