# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the denoiser is told besides x and t, as one pytree, and the text encoders that make it of token ids.

    ids -> text encoders -> Condition -> guidance, caches, batches, objective -> denoiser

Every leaf has a row for each example, so rows are taken, joined and split with ``jax.tree.map``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dreambooth_jax.models.beside import apply
from dreambooth_jax.models.emphasis import emphasised
from dreambooth_jax.trees import Tree, flatten, unflatten

CONDITION = "condition"
INPUT_IDS = "input_ids"
SIZES = "sizes"
"""Of a batch: what views of pictures tell, whatever is made of texts."""
SILENT = "silent"
"""Of a batch with token ids: which texts say nothing at all."""


class Residuals(NamedTuple):
    """Features that another network adds to the denoiser's, [b, h, w, c] or [b, 1, 1, c]; None adds nothing."""

    skips: tuple[Any, ...] | None = None
    """One for each skip connection, added on the way up: of a ControlNet."""
    middle: Any | None = None
    """Added to the middle block's result: of a ControlNet, or of a T2I-Adapter."""
    blocks: tuple[Any, ...] | None = None
    """One for each down block, added before it halves the size, or to its result if it attends to nothing: of a
    T2I-Adapter."""

    def astype(self, dtype: DTypeLike) -> "Residuals":
        """In another dtype."""
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self)


class Condition(NamedTuple):
    """What a denoiser is conditioned on; None is what its kind of model does not have."""

    states: Float[Array, "b s d"]
    """A vector for each token, which cross-attention looks at."""
    pooled: Float[Array, "b p"] | None = None
    """A vector for the whole text."""
    sizes: Float[Array, "b n"] | None = None
    """Height and width of the original picture, top and left of the crop, then height and width of what is wanted, or
    how beautiful it is."""
    residuals: Residuals | None = None
    """What other networks add to its features."""
    images: Mapping[str, tuple[tuple[Any, Any], ...]] | None = None
    """Path of an attention in the denoiser -> of each image its keys and values there, [b, n, channels]."""
    labels: Int[Array, "b"] | None = None
    """A number for each example, of those that it has an embedding for: an upscaler's level of noise."""
    guidance: Float[Array, "b"] | None = None
    """Guidance scale less one, of models that were distilled to do themselves what it does."""

    def silenced(self, silent: Bool[Array | np.ndarray, "b"] | None) -> "Condition":
        """With zeros in the place of all that is known of some texts."""
        if silent is None:
            return self
        return jax.tree.map(lambda leaf: jnp.where(silent.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), self)

    def leaves(self) -> dict[str, Any]:
        """``condition/states`` and so on: how batches and tables, which are flat, name them."""
        return flatten({CONDITION: {name: leaf for name, leaf in self._asdict().items() if leaf is not None}})

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any]) -> "Condition | None":
        """The inverse of :meth:`leaves`, from a batch with other entries; None if it brings no condition."""
        found = {name: leaf for name, leaf in batch.items() if name.startswith(f"{CONDITION}/")}
        return cls(**unflatten(found)[CONDITION], sizes=batch.get(SIZES)) if found else None


class Conditioner(NamedTuple):
    """Text encoders, and what becomes of their outputs. Hashable, so that it may be a static argument.

    Attributes:
        encoders: their names in the model, and modules.
        combine: each encoder's output by name -> the condition.
    """

    encoders: tuple[tuple[str, nn.Module], ...]
    combine: Callable[[Mapping[str, Any]], Condition]

    def __call__(self, params: Tree, ids: Mapping[str, Int[Array | np.ndarray, "b s"]]) -> Condition:
        """Token ids of each encoder -> condition. ``params`` may hold other networks, too."""
        return self.combine({name: apply(module, params[name], ids[name]) for name, module in self.encoders})

    @property
    def unread(self) -> tuple[str, ...]:
        """Patterns of names of the encoders' parameters that no condition depends on."""
        return tuple(f"{name}/{pattern}" for name, module in self.encoders for pattern in module.unread)

    def of_chunks(
        self,
        params: Tree,
        ids: Mapping[str, Int[Array, "b k s"]],
        weights: Mapping[str, Float[Array, "b k s"]],
        *,
        restore_mean: Bool[Array | np.ndarray, ""],
    ) -> Condition:
        """The condition of prompts in k chunks, whose states follow each other, [b, k s, d].

        Args:
            params: may hold other networks, too.
            ids: of each encoder.
            weights: of each token.
            restore_mean: as in :func:`~dreambooth_jax.models.emphasis.emphasised`.
        """

        def joined(output: Array, weights: Array) -> Array:
            b, k, s = weights.shape
            if output.ndim == 2:  # a vector for the whole text: the first chunk's
                return output.reshape(b, k, -1)[:, 0]
            return emphasised(output, weights.reshape(b * k, s), restore_mean=restore_mean).reshape(b, k * s, -1)

        outputs = {}
        for name, module in self.encoders:
            rows = ids[name].reshape(-1, ids[name].shape[-1])
            output = apply(module, params[name], rows)
            outputs[name] = jax.tree.map(partial(joined, weights=weights[name]), output)
        return self.combine(outputs)

    def of_batch(self, params: Tree, batch: Mapping[str, Any]) -> Condition:
        """The condition that a batch brings, or else what its token ids come to."""
        condition = Condition.of_batch(batch)
        if condition is not None:
            return condition
        told = self(params, {name: batch[f"{INPUT_IDS}/{name}"] for name, _ in self.encoders})
        return told.silenced(batch.get(SILENT))._replace(sizes=batch.get(SIZES))

    def clone(self, **changes: Any) -> "Conditioner":
        """The same with other attributes of the modules, such as ``remat``."""
        return self._replace(encoders=tuple((name, module.clone(**changes)) for name, module in self.encoders))


def id_leaves(ids: Mapping[str, Int[Array | np.ndarray, "b s"]]) -> dict[str, Any]:
    """Token ids of each encoder as entries of a batch: ``input_ids/text_encoder``."""
    return {f"{INPUT_IDS}/{name}": rows for name, rows in ids.items()}
