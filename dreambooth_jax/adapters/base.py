# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""An adapter says what is trained: a pair of pure functions, as an optax transformation is.

    init(key, params)            -> (frozen, trainable)     split the model, or add something to it
    compose(frozen, trainable)   -> params                  the model again, as the networks want it

Gradients, optimizer state and saved bytes exist for ``trainable`` alone; models, samplers and the loss never know.
Laws that every adapter keeps: ``compose(*init(key, params))`` is ``params``, leaf for leaf, and structure, shapes and
dtypes stay what they were for any values of ``trainable``.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Key

from dreambooth_jax.trees import Tree


@runtime_checkable
class InitFn(Protocol):
    """``init`` of an adapter."""

    def __call__(self, key: Key[Array, ""], params: Tree, /) -> tuple[Tree, Tree]: ...


@runtime_checkable
class ComposeFn(Protocol):
    """``compose`` of an adapter."""

    def __call__(self, frozen: Tree, trainable: Tree, /) -> Tree: ...


class Adapter(NamedTuple):
    """The pair. ``frozen`` and ``trainable`` are nested dicts whose first level names the network."""

    init: InitFn
    compose: ComposeFn
