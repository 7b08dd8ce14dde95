# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Named random numbers on the host: NumPy's counterpart of the key streams in ``rng.py``.

A name (seed, what for, which epoch, ...) is hashed to the key of a Philox counter generator. Only the generator's raw
words are used: NumPy promises them for good, which it does not promise for ``Generator.permutation``, so a run may be
resumed under another NumPy and still sees the same order.
"""

import hashlib

import numpy as np
from jaxtyping import Float64, Int64, UInt64

Name = str | int


def words(n: int, *name: Name) -> UInt64[np.ndarray, "n"]:
    """The first n random 64-bit words of a name."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n)


def permutation(n: int, *name: Name) -> Int64[np.ndarray, "n"]:
    """A random order of 0 .. n-1: the ranks of n random words (two are equal once in 2^64/n^2 times, and harmless)."""
    return np.argsort(words(n, *name), kind="stable")


def uniform(n: int, *name: Name) -> Float64[np.ndarray, "n"]:
    """n numbers in [0, 1), of 53 bits each."""
    return (words(n, *name) >> np.uint64(11)) * 2.0**-53
