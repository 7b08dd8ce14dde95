# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Full fine-tuning: the selected leaves themselves are trained.

params    = {"text_encoder": ..., "unet": ..., "vae": ...}
frozen    = {"text_encoder": ..., "vae": ...}                 full("unet/.*")
trainable = {"unet": ...}                                 each group is named by its network
"""

from collections.abc import Sequence

from jaxtyping import Array, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.adapters.targets import Leaves
from dreambooth_jax.trees import Tree, combine, flatten, matcher, partition


def full(*patterns: str) -> Adapter:
    """Train the leaves whose whole name (``unet/conv_in/kernel``) one of the patterns matches.

    Args:
        patterns: regular expressions; ``"unet/.*"`` is the UNet, ``"unet/.*attn2.*"`` its cross-attention.

    Raises:
        ValueError: from ``init``, if the patterns select nothing.
    """
    is_one = matcher(patterns)

    def choose(names: Sequence[str]) -> list[str]:
        chosen = [name for name in names if is_one(name)]
        if not chosen:
            raise ValueError(f"no leaf matches {list(patterns)}")
        return chosen

    return full_leaves(choose)


def full_leaves(leaves: Leaves) -> Adapter:
    """Train the leaves that are chosen."""

    def init(key: Key[Array, ""], params: Tree) -> tuple[Tree, Tree]:
        del key  # nothing is drawn
        chosen = set(leaves(list(flatten(params))))
        trainable, frozen = partition(params, chosen.__contains__)
        return frozen, trainable

    def compose(frozen: Tree, trainable: Tree) -> Tree:
        return combine(frozen, trainable)

    def networks(group: str) -> tuple[str, ...]:
        return (group,)

    return Adapter(init, compose, networks)
