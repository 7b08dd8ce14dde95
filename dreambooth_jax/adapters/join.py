# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Several adapters at once: new words and LoRA.

params -> first.compose -> second.compose -> ... -> params

Each sees the model as those before it left it. ``frozen`` is the first one's; what a later one keeps fixed besides
lies in its network under ``joined_1``, ``joined_2``, ..., and leaves that it trains itself are taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Array, Key

from dreambooth_jax.adapters.base import Adapter, Apart, ComposeFn
from dreambooth_jax.adapters.kernels import FIXED
from dreambooth_jax.models.beside import Deltas
from dreambooth_jax.trees import Tree, combine, flatten, unflatten

_JOINED = "joined"


def join(*adapters: Adapter) -> Adapter:
    """An adapter that trains all groups of others, which must have different names.

    Args:
        adapters: each says its ``groups``, but for one at most: it has all other groups.

    Raises:
        ValueError: if several do not say their groups, or say the same; from ``init``, if groups are not what was said.
    """
    claimed = [group for adapter in adapters for group in adapter.groups]
    if len(set(claimed)) < len(claimed) or sum(not adapter.groups for adapter in adapters) > 1:
        raise ValueError(f"adapters to join must have groups of their own, not {[one.groups for one in adapters]}")
    joined = _Joined(adapters)
    return Adapter(
        joined.init,
        joined.compose,
        joined.networks,
        joined.extend,
        joined.project,
        joined.beside if any(adapter.beside for adapter in adapters) else None,
        tuple(claimed) if all(adapter.groups for adapter in adapters) else (),
        joined.members if all(adapter.members for adapter in adapters) else None,
    )


def fixed_of_all(frozen: Tree) -> Tree:
    """What the methods of all adapters, joined or alone, keep fixed of one network: path of a layer -> tensors.

    Args:
        frozen: the network's part of what is frozen.
    """
    joined = [tree for name, tree in frozen.items() if name.startswith(f"{_JOINED}_")]
    return combine(*(tree[FIXED] for tree in (frozen, *joined) if FIXED in tree))


@dataclass(frozen=True, eq=False)
class _Joined:
    adapters: Sequence[Adapter]

    def owner(self, group: str) -> Adapter | None:
        """The adapter that says the group, or else the one that says none."""
        saying = [adapter for adapter in self.adapters if group in adapter.groups]
        return next(iter((*saying, *(adapter for adapter in self.adapters if not adapter.groups))), None)

    def own(self, adapter: Adapter, trainable: Tree) -> Tree:
        return {group: tree for group, tree in trainable.items() if self.owner(group) is adapter}

    def networks(self, group: str) -> tuple[str, ...]:
        owner = self.owner(group)
        return owner.networks(group) if owner else ()

    def project(self, group: str, before: Tree, after: Tree) -> Tree:
        owner = self.owner(group)
        return owner.project(group, before, after) if owner else after

    def extend(self, pipe: Any) -> Any:
        for adapter in self.adapters:
            pipe = adapter.extend(pipe)
        return pipe

    def init(self, key: Key[Array, ""], params: Tree) -> tuple[Tree, Tree]:
        trainable: Tree = {}
        kept: Tree = {}
        for number, adapter in enumerate(self.adapters):
            before = flatten(params)
            frozen, new = adapter.init(key, params)
            if self.own(adapter, new).keys() != new.keys():
                raise ValueError(f"an adapter to join has groups {list(new)}, which it did not say or are another's")
            params = adapter.compose(frozen, new)
            trainable |= new
            leaves = flatten(frozen)
            if not number and any(f"/{_JOINED}_" in name for name in leaves):
                raise ValueError("what is joined already cannot come first: join all at once")
            if number:
                kept = {name: leaf for name, leaf in kept.items() if name not in before or name in leaves}
                leaves = _moved({name: leaf for name, leaf in leaves.items() if name not in before}, number)
            kept |= leaves
        return unflatten(kept), trainable

    def compose(self, frozen: Tree, trainable: Tree) -> Tree:
        params, fixed = _sorted_out(frozen, len(self.adapters))
        for adapter, more in zip(self.adapters, fixed, strict=True):
            params = adapter.compose(_with(params, more), self.own(adapter, trainable))
        return params

    def beside(self, frozen: Tree, trainable: Tree) -> tuple[Tree, Deltas]:
        return self._apart(frozen, trainable, [one.beside or partial(_composed, one.compose) for one in self.adapters])

    def members(self, frozen: Tree, trainable: Tree) -> tuple[Tree, Deltas]:
        return self._apart(frozen, trainable, [one.members for one in self.adapters if one.members])

    def _apart(self, frozen: Tree, trainable: Tree, ways: Sequence[Apart]) -> tuple[Tree, Deltas]:
        params, fixed = _sorted_out(frozen, len(self.adapters))
        deltas: Deltas = {}
        for adapter, apart, more in zip(self.adapters, ways, fixed, strict=True):
            params, new = apart(_with(params, more), self.own(adapter, trainable))
            deltas = _together(deltas, new)
        return params, deltas


def _composed(compose: ComposeFn, frozen: Tree, trainable: Tree) -> tuple[Tree, Deltas]:
    return compose(frozen, trainable), {}


def _together(one: Deltas, other: Deltas) -> Deltas:
    for name in one.keys() & other.keys():
        if twice := one[name].keys() & other[name].keys():
            raise ValueError(f"{name}/{min(twice)} has something of two adapters next to it")
    return {name: {**one.get(name, {}), **other.get(name, {})} for name in {**one, **other}}


def _moved(leaves: Tree, number: int) -> Tree:
    """``unet/adapter/...`` -> ``unet/joined_1/adapter/...``"""
    parts = (name.partition("/") for name in leaves)
    return {f"{network}/{_JOINED}_{number}/{inner}": leaves[f"{network}/{inner}"] for network, _, inner in parts}


def _sorted_out(frozen: Tree, count: int) -> tuple[Tree, Sequence[Tree]]:
    """(frozen without what the later adapters keep fixed, what each keeps fixed)."""
    keys = [f"{_JOINED}_{number}" for number in range(count)]
    rest = {name: {key: leaf for key, leaf in tree.items() if key not in keys} for name, tree in frozen.items()}
    return rest, [{name: tree.get(key, {}) for name, tree in frozen.items()} for key in keys]


def _with(params: Tree, fixed: Tree) -> Tree:
    names = dict.fromkeys([*params, *(name for name, tree in fixed.items() if tree)])
    return {name: {**params.get(name, {}), **fixed.get(name, {})} for name in names}
