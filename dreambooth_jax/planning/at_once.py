# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many members one program takes at once: as many as fit, in groups that are few and of about one size."""

import math
from collections.abc import Callable

UNKNOWN = 16
"""Members at once where nobody knows how much memory there is: with more, a step of each is hardly cheaper (a CPU takes
16.5 ms with 8 and 15.2 with 16), and all of them are lost if memory is not enough."""


def most_at_once(wanted: int, *, room: int | None, peak: Callable[[int], int]) -> int:
    """The size of a group; 0 if not even one member fits.

    What members need is about a line: what they share, and as much again for each. So the program of all is compiled,
    which in the usual case is the one that then runs; only if that does not fit the program of one, and that of as many
    as should. Fewer are tried until what is compiled fits.

    Args:
        wanted: members that are to be trained.
        room: bytes of a device; None if nobody knows.
        peak: of a number of members, the bytes on a device that their compiled program needs.
    """
    if room is None:
        return _even(wanted, UNKNOWN)
    tried, needed = wanted, peak(wanted)
    if needed <= room:
        return wanted
    one = peak(1) if wanted > 1 else needed
    if one > room:
        return 0
    while needed > room:
        fitting = 1 + (room - one) * (tried - 1) // (needed - one)
        tried = _even(wanted, min(max(fitting, 1), tried - 1))
        needed = one if tried == 1 else peak(tried)
    return tried


def _even(wanted: int, most: int) -> int:
    """The size of as few groups of at most so many as there can be."""
    return math.ceil(wanted / math.ceil(wanted / most))
