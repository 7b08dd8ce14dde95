# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What controls do in the program that makes pictures: each looks at its picture and adds to the denoiser's features.

Once a run, ``look`` makes of a picture what does not depend on the step. At each call of the denoiser ``tell`` adds to
the condition, times the weight that this row of the sampler's table has for it. Weights are data: another scale, start
or end compiles nothing anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from dreambooth_jax.models.condition import Condition, Residuals
from dreambooth_jax.models.controlnet import guess_scales
from dreambooth_jax.trees import Tree

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""What red, green and blue are in grey (ITU-R BT.601)."""


@runtime_checkable
class Guide(Protocol):
    """A kind of control. Hashable, so that it may be a static argument."""

    def look(self, params: Tree, given: Any) -> tuple[Any, Any]:
        """What is given for each picture -> what the prompt's and the negative prompt's side of guidance see of it."""

    def tell(
        self, params: Tree, x: Array, t: Array, condition: Condition, seen: Any, weight: Float[Array, ""]
    ) -> Condition:
        """The condition with what this control adds. Rows are the negative prompts', where there are any, then the
        prompts'."""


@dataclass(frozen=True, kw_only=True)
class ControlNetGuide:
    """A ControlNet.

    Attributes:
        module: the network.
        guess: let the picture alone decide: residuals get the scales of guess mode.
        half: add to the prompts' half of the rows only.
    """

    module: nn.Module
    guess: bool = False
    half: bool = False

    def look(self, params: Tree, given: Float[Array, "b H W c"]) -> tuple[Array, Array]:
        """The hint, the same for both sides."""
        hint: Any = self.module.apply({"params": params}, given, method="hint")
        return hint, hint

    def tell(
        self,
        params: Tree,
        x: Float[Array, "n h w c"],
        t: Float[Array, "n"],
        condition: Condition,
        seen: Float[Array, "n h w f"],
        weight: Float[Array, ""],
    ) -> Condition:
        """Adds residuals. Where the weight is 0 the network is not run: a step outside its interval costs nothing."""
        first = len(x) // 2 if self.half else 0

        def run() -> Residuals:
            told = condition._replace(residuals=None, images=None, labels=None)  # what tells of text and sizes
            mine = jax.tree.map(lambda leaf: leaf[first:], (x, t, told, seen))
            found = self.module.apply({"params": params}, *mine, method="residuals")
            if self.guess:
                found = jax.tree.map(lambda leaf, scale: scale * leaf, found, guess_scales(self.module.config))
            return jax.tree.map(whole, found)

        def whole(leaf: Array) -> Array:
            leaf = leaf * weight.astype(leaf.dtype)
            return jnp.concatenate([jnp.zeros((first, *leaf.shape[1:]), leaf.dtype), leaf]) if first else leaf

        def nothing() -> Residuals:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run))

        return adding(condition, jax.lax.cond(weight != 0, run, nothing))


@dataclass(frozen=True, kw_only=True)
class T2IAdapterGuide:
    """A T2I-Adapter.

    Attributes:
        module: the network.
    """

    module: nn.Module

    def look(self, params: Tree, given: Float[Array, "b H W 3"]) -> tuple[Any, Any]:
        """Features for each down block, and for the middle: this is all that the network does."""
        grey = self.module.config.in_channels == 1
        features = self.module.apply({"params": params}, given @ LUMA[:, None] if grey else given)
        return features, features

    def tell(
        self, params: Tree, x: Array, t: Array, condition: Condition, seen: Sequence[Array], weight: Float[Array, ""]
    ) -> Condition:
        """Adds the features."""
        features = tuple(leaf * weight.astype(leaf.dtype) for leaf in seen)
        count = self.module.config.blocks
        return adding(condition, Residuals(blocks=features[:count], middle=next(iter(features[count:]), None)))


@dataclass(frozen=True, kw_only=True)
class IPAdapterGuide:
    """An IP-Adapter.

    Attributes:
        projection: what is known of an image -> tokens.
        encoder: CLIP's of images, or None: then embeddings are given.
        of_states: whether hidden states are projected, rather than the image's embedding.
        width: features of what is projected.
    """

    projection: nn.Module
    encoder: nn.Module | None
    of_states: bool
    width: int

    def look(self, params: Tree, given: Float[Array, "b ..."]) -> tuple[Any, Any]:
        """Keys and values of the image for each cross-attention; beside the negative prompt those of no image."""
        seen = self._encoded(params, given)
        blank = self._encoded(params, jnp.zeros_like(given)) if self.of_states else jnp.zeros_like(seen)
        return self._attended(params, seen), self._attended(params, blank)

    def _encoded(self, params: Tree, given: Array) -> Any:
        if self.encoder is None:
            return given
        method = "hidden_states" if self.of_states else None
        return self.encoder.apply({"params": params["encoder"]}, given, method=method)

    def _attended(self, params: Tree, seen: Array) -> dict[str, tuple[Array, Array]]:
        tokens: Any = self.projection.apply({"params": params["projection"]}, seen)
        sides = (params["key"], params["value"])
        return {path: tuple(tokens @ side[path].astype(tokens.dtype) for side in sides) for path in sides[0]}

    def tell(
        self,
        params: Tree,
        x: Array,
        t: Array,
        condition: Condition,
        seen: Mapping[str, tuple[Array, Array]],
        weight: Float[Array, ""],
    ) -> Condition:
        """Adds the image; attention is linear in values, so its weight is theirs."""
        there = condition.images or {path: () for path in seen}
        more = {path: (key, value * weight.astype(value.dtype)) for path, (key, value) in seen.items()}
        return condition._replace(images={path: (*there[path], more[path]) for path in seen})


def adding(condition: Condition, more: Residuals) -> Condition:
    """A condition with more residuals."""
    there = condition.residuals or Residuals()

    def sum_of(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return b if a is None else a
        return jax.tree.map(jnp.add, a, b)

    return condition._replace(residuals=Residuals(*map(sum_of, there, more)))


def look(guides: Sequence[Guide], params: Sequence[Tree], given: Sequence[Any]) -> dict[str, tuple]:
    """What each control sees of what it is given: on the prompts' side, "text", and on the "negative" prompts'."""
    seen = [guide.look(mine, pictures) for guide, mine, pictures in zip(guides, params, given, strict=True)]
    return {"text": tuple(text for text, _ in seen), "negative": tuple(negative for _, negative in seen)}


def tell(
    guides: Sequence[Guide],
    params: Sequence[Tree],
    x: Float[Array, "n h w c"],
    t: Float[Array, "n"],
    condition: Condition,
    seen: Sequence[Any],
    weights: Float[Array, "controls"],
) -> Condition:
    """The condition with what all controls add."""
    for i, guide in enumerate(guides):
        condition = guide.tell(params[i], x, t, condition, seen[i], weights[i])
    return condition


def weights_of_rows(
    scales: Sequence[float], intervals: Sequence[tuple[float, float]], *, length: int, size: int
) -> Float[np.ndarray, "size controls"]:
    """How much each control counts at each row of a sampler's table.

    Row i of n counts if it lies wholly within (start, end): i / n ≥ start and (i + 1) / n ≤ end, as in diffusers, which
    goes by calls of the network, not by steps.

    Args:
        scales: of each control.
        intervals: start and end of each, shares of the run.
        length: number of rows that are run.
        size: of the table, with what fills it up.
    """
    weights = np.zeros((size, len(scales)))
    for column, (scale, (start, end)) in enumerate(zip(scales, intervals, strict=True)):
        counts = [i / length >= start and (i + 1) / length <= end for i in range(length)]
        weights[:length, column] = np.where(counts, scale, 0.0)
    return weights
