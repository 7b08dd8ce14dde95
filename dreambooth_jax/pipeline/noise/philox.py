# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``torch.randn`` on an NVIDIA GPU, without either: the numbers of A1111, whose name for this way is "RNG: NV".

Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): ten rounds turn a counter of
four words and a key of two into four random words. Number j of call i has the counter (i, 0, j, 0), and the seed is the
key. Of the words the first two become one normal number (Box-Muller); the others are not used.

A GPU does so as long as it has a thread for each number: up to some hundred thousand, which is latents of 1024 pixels
square and more.
"""

import numpy as np
from jaxtyping import Float, UInt32

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What is added to the key from round to round."""
WORD = 2**32


def philox(counter: UInt32[np.ndarray, "4 n"], key: tuple[int, int]) -> UInt32[np.ndarray, "4 n"]:
    """Four random words of each counter."""
    a, b, c, d = (word.astype(np.uint64) for word in counter)
    for number in range(ROUNDS):
        e, f = (np.uint64((word + number * step) % WORD) for word, step in zip(key, WEYL))
        left, right = (np.uint64(m) * word for m, word in zip(MULTIPLIERS, (a, c)))
        a, b = (right >> np.uint64(32)) ^ b ^ e, right % np.uint64(WORD)
        c, d = (left >> np.uint64(32)) ^ d ^ f, left % np.uint64(WORD)
    return np.stack([a, b, c, d]).astype(np.uint32)


class PhiloxGenerator:
    """The state of ``torch.Generator("cuda").manual_seed(seed)``.

    Args:
        seed: of up to 64 bits.
    """

    def __init__(self, seed: int):
        self._key = (seed % WORD, seed // WORD % WORD)
        self._calls = 0

    def randn(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """The next standard normal float32 numbers."""
        size = int(np.prod(shape))
        counter = np.zeros((4, size), np.uint32)
        counter[0], counter[2] = self._calls, np.arange(size)
        self._calls += 1
        first, second, _, _ = philox(counter, self._key)
        radius = np.sqrt(-2 * np.log((first + 0.5) / WORD))
        return (radius * np.sin(2 * np.pi * (second + 0.5) / WORD)).astype(np.float32).reshape(shape)
