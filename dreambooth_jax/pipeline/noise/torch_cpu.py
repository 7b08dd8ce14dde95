# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``torch.randn`` on a CPU, without torch: the numbers of diffusers with a CPU generator, of ComfyUI, of A1111 with
"RNG: CPU".

MT19937 gives 32-bit words. A tensor of at least 16 numbers is filled with uniform ones, of 24 bits each, and turned
into normal ones in blocks of 16 (Box-Muller, the radius from the first eight and the angle from the last); what does
not fill a block is the last 16 drawn again. Smaller tensors take two uniform numbers of 53 bits for each pair of normal
ones, and keep the second of a pair for the next call.
"""

import numpy as np
from jaxtyping import Float, UInt32

BLOCK = 16


class TorchGenerator:
    """The state of ``torch.Generator("cpu").manual_seed(seed)``.

    Args:
        seed: its lowest 32 bits count, as they do in torch.
    """

    def __init__(self, seed: int):
        self._words = np.random.RandomState(seed % 2**32)
        self._kept: float | None = None

    def randn(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """The next standard normal float32 numbers; equal to torch's but for the rounding of logarithm and cosine."""
        size = int(np.prod(shape))
        values = self._many(size) if size >= BLOCK else np.asarray([self._one() for _ in range(size)])
        return values.astype(np.float32).reshape(shape)

    def _many(self, size: int) -> Float[np.ndarray, "size"]:
        whole = size - size % BLOCK
        uniform = self._uniform(size)
        values = np.concatenate([_box_muller(uniform[:whole]), np.zeros(size - whole)])
        if size > whole:
            values[-BLOCK:] = _box_muller(self._uniform(BLOCK))
        return values

    def _one(self) -> float:
        if self._kept is not None:
            value, self._kept = self._kept, None
            return value
        high, low, high_2, low_2 = (int(word) for word in self._raw(4))
        angle, radius = (((a << 32 | b) % 2**53) * 2.0**-53 for a, b in ((high, low), (high_2, low_2)))
        length = np.sqrt(-2 * np.log1p(-radius))
        self._kept = float(length * np.sin(2 * np.pi * angle))
        return float(length * np.cos(2 * np.pi * angle))

    def _uniform(self, size: int) -> Float[np.ndarray, "size"]:
        return (self._raw(size) & (2**24 - 1)) * np.float32(2.0**-24)

    def _raw(self, size: int) -> UInt32[np.ndarray, "size"]:
        return self._words.randint(0, 2**32, size, dtype=np.uint32)


def _box_muller(uniform: Float[np.ndarray, "size"]) -> Float[np.ndarray, "size"]:
    """Blocks of uniform numbers in [0, 1) -> normal ones, rounded to float32 where torch rounds most."""
    first, second = np.split(uniform.astype(np.float32).reshape(-1, 2, BLOCK // 2), 2, axis=1)
    radius = np.sqrt(-2 * np.log(np.float64(1 - first)))
    angle = np.float64(np.float32(2 * np.pi) * second)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
