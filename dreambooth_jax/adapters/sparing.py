# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Leaves that nothing is read from are not trained: weight decay alone would change them, and no loss would tell.

    init(key, params) = (frozen | unread, trainable)        of adapter.init(key, params without unread)

PyTorch's optimizers do the same: they leave alone what has no gradient.
"""

from collections.abc import Sequence

from jaxtyping import Array, Key

from dreambooth_jax.adapters.base import Adapter
from dreambooth_jax.trees import Tree, combine, matcher, partition


def sparing(adapter: Adapter, unread: Sequence[str]) -> Adapter:
    """An adapter that neither trains nor changes some leaves, whatever it would choose.

    Args:
        adapter: says what is trained of all others.
        unread: patterns of whole names, ``text_encoder/text_model/final_layer_norm/.*``.
    """
    is_unread = matcher(unread)

    def init(key: Key[Array, ""], params: Tree) -> tuple[Tree, Tree]:
        spared, rest = partition(params, is_unread)
        frozen, trainable = adapter.init(key, rest)
        return combine(frozen, spared), trainable

    return adapter._replace(init=init) if unread else adapter
