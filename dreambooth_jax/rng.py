# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Named key streams: key = fold_in(fold_in(root, hash(name)), step), then one key per example.

No key is ever threaded or stored. A consumer that is added later has its own name and shifts nobody else's numbers,
a resumed run needs nothing but the seed and the step, and since every example is drawn from its own key, results do
not depend on how examples are laid out over devices and hosts.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, Integer, Key

Counter = int | Int[Array, ""]


def root_key(seed: int | Integer[Array | np.ndarray, ""]) -> Key[Array, ""]:
    """The key that everything random of one run descends from."""
    return jax.random.key(seed)


def stream(root: Key[Array, ""], name: str, *counters: Counter) -> Key[Array, ""]:
    """The key of stream ``name`` at the given counters (a training step, a picture's number, ...)."""
    key = jax.random.fold_in(root, zlib.crc32(name.encode()))
    for counter in counters:
        key = jax.random.fold_in(key, counter)
    return key


def per_example(key: Key[Array, ""], index: Int[Array, "b"]) -> Key[Array, "b"]:
    """One key per example, from the example's number in the *global* batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
