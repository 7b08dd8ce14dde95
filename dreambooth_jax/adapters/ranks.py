# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rank and alpha of a kernel: convolutions larger than 1x1 may have their own."""

import math
from typing import Any, NamedTuple

from dreambooth_jax.adapters.kernels import is_convolution


class Ranks(NamedTuple):
    """How a run's ranks depend on the kernel.

    Attributes:
        rank: r.
        alpha: the change is multiplied by alpha / r; None is r.
        conv_rank, conv_alpha: of convolutions larger than 1x1; None are ``rank``, and ``alpha`` in proportion to it.
        rank_stabilized: divide by √r in the place of r (Kalajdzievski 2023, arXiv 2312.03732).
    """

    rank: int
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None
    rank_stabilized: bool = False

    def of(self, kernel: Any) -> tuple[int, float]:
        """(r, alpha). A stabilised alpha is √r times as large, so that whoever reads it may divide by r."""
        alpha = float(self.rank) if self.alpha is None else self.alpha
        rank = self.rank
        if is_convolution(kernel) and kernel.shape[:2] != (1, 1):
            rank = self.conv_rank or rank
            alpha = alpha * rank / self.rank if self.conv_alpha is None else self.conv_alpha
        return rank, alpha * math.sqrt(rank) if self.rank_stabilized else alpha
