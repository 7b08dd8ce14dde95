# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which generator a tool draws a picture's noise from, as data.

    torch     A1111 with "RNG: CPU", diffusers with a CPU generator for each picture: first noise and steps' noise
    philox    A1111 on an NVIDIA GPU, its default, and with "RNG: NV"
    comfy     ComfyUI on an NVIDIA GPU: the first noise of a whole batch from the CPU, the steps' from the GPU
    invoke    InvokeAI on an NVIDIA GPU: the first noise from the CPU, the steps' from the GPU, from the seed with
              all its bits turned

Noise for Brownian paths (torchsde, which these tools' SDE samplers ask) comes from a tree of its own, and is not made
again here: with such samplers only the first noise is the tool's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from dreambooth_jax.pipeline.noise.philox import PhiloxGenerator
from dreambooth_jax.pipeline.noise.torch_cpu import TorchGenerator

Generator: TypeAlias = TorchGenerator | PhiloxGenerator


class Rule(NamedTuple):
    """Where the noise of a picture comes from."""

    first: Callable[[int], Generator]
    """A generator of the first noise, from the seed."""
    steps: Callable[[int], Generator] | None = None
    """A generator of the steps' noise; without it that of the first noise goes on."""


RULES: Mapping[str, Rule] = {
    "torch": Rule(TorchGenerator),
    "philox": Rule(PhiloxGenerator),
    "comfy": Rule(TorchGenerator, PhiloxGenerator),
    "invoke": Rule(TorchGenerator, lambda seed: PhiloxGenerator(seed ^ 0xFFFFFFFF)),
}


class ToolNoise:
    """The noise of some pictures, each drawn by itself.

    Args:
        name: one of ``RULES``.
        seeds: of each picture.
        size: height, width and channels of latents.
        index: number of the picture in a batch that was drawn at once, from 0.
        seed_delta: what is added to the seed for the steps' noise (A1111's "Eta noise seed delta"), if not 0.
    """

    def __init__(
        self, name: str, seeds: Sequence[int], size: tuple[int, int, int], *, index: int = 0, seed_delta: int = 0
    ):
        height, width, channels = size
        rule = RULES[name]
        self._shape = (index + 1, channels, height, width)
        generators = [rule.first(seed) for seed in seeds]
        self.first: Float[np.ndarray, "b h w c"] = self._draw(generators)
        """Before the first step."""
        if seed_delta or rule.steps:
            generators = [(rule.steps or rule.first)(seed + seed_delta) for seed in seeds]
        self._generators = generators

    def next(self) -> Float[np.ndarray, "b h w c"]:
        """Of the next step that draws noise."""
        return self._draw(self._generators)

    def _draw(self, generators: Sequence[Generator]) -> Float[np.ndarray, "b h w c"]:
        return np.stack([one.randn(self._shape)[-1] for one in generators]).transpose(0, 2, 3, 1)
