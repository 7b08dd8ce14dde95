# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a stream draws its rows from: pictures of one size as moments of their latents, with their texts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from dreambooth_jax.data.captions import TextDraws
from dreambooth_jax.data.host_rng import Name
from dreambooth_jax.size import Size

Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleTable:
    """n pictures, each in v views, as moments of their latents (raw, not scaled); and their u different texts."""

    mean: Float[np.ndarray, "n v h w c"]
    logvar: Float[np.ndarray, "n v h w c"]
    text: Mapping[str, Shaped[np.ndarray, "u ..."]]
    """Different texts, stored once: ``condition/...`` of frozen text encoders, or ``input_ids/...``, ``silent``."""
    text_index: Int[np.ndarray, "n"]
    """Which of the texts an example has, or has first."""
    weights: Float[np.ndarray, "n v h w"] | None = None
    """Of the loss at each latent; None where all count whole."""
    example_weights: Float[np.ndarray, "n"] | None = None
    """Of the loss of each picture; None where all count alike."""
    sizes: Float[np.ndarray, "n v s"] | None = None
    """What a denoiser is told of each view that knows of sizes, as ``Condition.sizes``."""
    draws: TextDraws | None = None
    """Where examples have several texts: which one they have at a visit."""

    def texts_at(self, example: Int[np.ndarray, "b"], counter: Int[np.ndarray, "b"], *name: Name) -> np.ndarray:
        """Which texts [b] the given examples have at these places of their stream's order."""
        return self.text_index[example] if self.draws is None else self.draws.at(example, counter, *name)

    def take(self, example: Int[np.ndarray, "b"], view: Int[np.ndarray, "b"], text: Int[np.ndarray, "b"]) -> Batch:
        """Moments [b, h, w, c] of the given examples in the given views, and the given texts; with masks, weights
        ``position_weight`` [b, h, w]; where the denoiser knows of them, ``sizes`` [b, s]."""
        texts = {name: rows[text] for name, rows in self.text.items()}
        if self.sizes is not None:
            texts["sizes"] = self.sizes[example, view]
        if self.weights is not None:
            texts["position_weight"] = self.weights[example, view]
        return {"mean": self.mean[example, view], "logvar": self.logvar[example, view], **texts}

    def weights_of(self, example: Int[np.ndarray, "b"]) -> Float[np.ndarray, "b"]:
        """How much the loss of the given examples counts."""
        if self.example_weights is None:
            return np.ones(len(example), np.float32)
        return self.example_weights[example].astype(np.float32)

    @property
    def counts(self) -> tuple[int, int]:
        """(n, v): pictures, and views of each."""
        return self.mean.shape[0], self.mean.shape[1]

    @property
    def size(self) -> Size:
        """Height and width of the latents."""
        return Size(self.mean.shape[2], self.mean.shape[3])
