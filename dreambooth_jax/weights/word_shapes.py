# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How files of new words are told from others: by the shapes of their arrays, since words may have any name."""

from collections.abc import Mapping, Sequence

from dreambooth_jax.weights.files import Leaf

MOST_VECTORS, MOST_WORDS = 75, 100
"""Of a word, and of a file."""


def may_be_words(leaves: Mapping[str, Leaf]) -> bool:
    """Whether arrays are new words and nothing else: a few vectors each."""
    return 0 < len(leaves) <= MOST_WORDS and all(_may_be_word(leaf.shape) for leaf in leaves.values())


def _may_be_word(shape: Sequence[int]) -> bool:
    return len(shape) in (1, 2) and min(shape) > 0 and (len(shape) == 1 or shape[0] <= MOST_VECTORS)
