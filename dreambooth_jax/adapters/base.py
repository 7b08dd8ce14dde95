# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""An adapter says what is trained: pure functions, as an optax transformation is.

    init(key, params)            -> (frozen, trainable)     split the model, or add something to it
    compose(frozen, trainable)   -> params                  the model again, as the networks want it

``frozen`` has networks at its first level. ``trainable`` has groups, which the adapter names: each has its own stretch
of the run, optimizer and learning rate. Gradients, optimizer state and saved bytes exist for ``trainable`` alone;
models, samplers and the loss never know.

Laws that every adapter keeps:

- ``compose(*init(key, params))`` is ``params``, leaf for leaf, with nothing new but what ``extend`` has a place for;
- structure, shapes and dtypes of what is composed do not depend on the values of ``trainable``;
- both can be traced (``jit``, ``eval_shape``);
- where there is ``beside``, or ``members``, networks with its deltas compute what composed ones do;
- a leaf that is in parts (``models/parts.py``) is handed on as it is, or made whole before it is computed with;
- a network can be composed alone, from its part of ``frozen`` and the groups that change it (:func:`part_for`);
- no gradient reaches, and no value of a group changes, a network that is not in ``networks(group)``.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Key

from dreambooth_jax.models.beside import Deltas
from dreambooth_jax.trees import Tree

T = TypeVar("T")

Apart = Callable[[Tree, Tree], tuple[Tree, Deltas]]
"""(frozen, trainable) -> (params, deltas): what is trained next to layers, not in their kernels."""


@runtime_checkable
class InitFn(Protocol):
    """``init`` of an adapter."""

    def __call__(self, key: Key[Array, ""], params: Tree, /) -> tuple[Tree, Tree]: ...


@runtime_checkable
class ComposeFn(Protocol):
    """``compose`` of an adapter."""

    def __call__(self, frozen: Tree, trainable: Tree, /) -> Tree: ...


def _unchanged(pipe: Any) -> Any:
    return pipe


def _as_it_came(group: str, before: Tree, after: Tree) -> Tree:
    del group, before
    return after


class Adapter(NamedTuple):
    """What is trained.

    Attributes:
        init: splits ``{"unet": ..., "vae": ..., ...}`` into ``frozen`` (network -> parameters) and ``trainable``
            (group -> parameters, which may be new ones).
        compose: the whole parameters of every network of which ``frozen`` or a group of ``trainable`` has something.
            A part of a group that belongs to a network which is not there is left out.
        networks: names of the networks that a group changes.
        extend: gives the pipeline what else the adapter changes, such as a tokenizer with new words; called before
            anything is traced.
        project: (group, its parameters before a step, after it) -> what they are then: brings them back to where they
            must stay, such as vectors to their length.
        beside: (frozen, trainable) -> (params, deltas): what is applied next to layers instead of put into their
            kernels, for :func:`~dreambooth_jax.models.beside.attached`; None where it is all in ``compose``.
        members: the same where all that is trained is in the deltas, so that members of one step share ``params``, and
            each has deltas of its own (``training/members.py``); None where it changes a network's own parameters.
        base: frozen -> the networks as they were before training, of what ``frozen`` alone has; None where it does not
            have all of them.
        groups: names of its groups, where these are not names of networks: for :func:`~dreambooth_jax.adapters.join`.
    """

    init: InitFn
    compose: ComposeFn
    networks: Callable[[str], tuple[str, ...]]
    extend: Callable[[Any], Any] = _unchanged
    project: Callable[[str, Tree, Tree], Tree] = _as_it_came
    beside: Apart | None = None
    groups: tuple[str, ...] = ()
    members: Apart | None = None
    base: Callable[[Tree], Tree] | None = None


def part_for(adapter: Adapter, networks: Iterable[str], frozen: Tree, trainable: Tree) -> tuple[Tree, Tree]:
    """Of both trees what ``compose`` needs to make some networks. It may then make others, too."""
    wanted = set(networks)
    return (
        {name: tree for name, tree in frozen.items() if name in wanted},
        {group: tree for group, tree in trainable.items() if wanted & set(adapter.networks(group))},
    )
