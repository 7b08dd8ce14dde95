# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Nested dicts of arrays, addressed by the names of their leaves.

    {"unet": {"conv_in": {"kernel": K, "bias": B}}}   <->   {"unet/conv_in/kernel": K, "unet/conv_in/bias": B}

Names are the interface: what is trained, decayed or sharded is said by regular expressions on them. ``partition`` and
``combine`` are the only freezing mechanism: the tree falls into two trees that are each other's complement.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from dreambooth_jax.errors import InputError

Tree = dict[str, Any]
T = TypeVar("T")


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by name, in the tree's own order. Empty sub-dicts vanish."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves.update({f"{key}/{name}": leaf for name, leaf in flatten(value).items()})
        else:
            leaves[key] = value
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The inverse of :func:`flatten`."""
    tree: Tree = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_named(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """``function(name, leaf)`` on every leaf."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def partition(tree: Mapping[str, Any], selected: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """(leaves whose name is selected, all others). ``combine`` of the two is the tree again."""
    leaves = flatten(tree)
    inside = {name: leaf for name, leaf in leaves.items() if selected(name)}
    outside = {name: leaf for name, leaf in leaves.items() if name not in inside}
    return unflatten(inside), unflatten(outside)


def combine(*trees: Mapping[str, Any]) -> Tree:
    """Union of trees with disjoint leaves.

    Raises:
        ValueError: if a leaf is in two of them.
    """
    leaves: dict[str, Any] = {}
    for tree in trees:
        for name, leaf in flatten(tree).items():
            if name in leaves:
                raise ValueError(f"leaf {name} is in two of the trees to combine")
            leaves[name] = leaf
    return unflatten(leaves)


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A predicate on names: does any pattern match the whole name?"""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda name: any(pattern.fullmatch(name) for pattern in compiled)


def by_name(tree: Mapping[str, Any], rules: Sequence[tuple[str, T]]) -> Tree:
    """Give every leaf the value of the first rule whose pattern matches its whole name.

    Raises:
        ValueError: if a leaf has no rule, or a rule matches no leaf (a misspelt pattern).
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    unused = {pattern for pattern, _ in rules}

    def value_of(name: str, leaf: Any) -> T:
        del leaf
        hits = [(pattern.pattern, value) for pattern, value in compiled if pattern.fullmatch(name)]
        if not hits:
            raise ValueError(f"no rule for leaf {name} among {[pattern for pattern, _ in rules]}")
        unused.difference_update(pattern for pattern, _ in hits)
        return hits[0][1]

    values = map_named(value_of, tree)
    if unused:
        raise ValueError(f"rules that match no leaf: {sorted(unused)}")
    return values


def shapes(tree: Any) -> Any:
    """The same tree with ``jax.ShapeDtypeStruct`` leaves."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def count(tree: Any) -> int:
    """Number of scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def short(number: int) -> str:
    """A number of scalars in words: ``859.5M``, ``1.5k``, ``768``."""
    if number < 1000:
        return str(number)
    return f"{number / 1e6:.1f}M" if number >= 50_000 else f"{number / 1e3:.1f}k"


def nbytes(tree: Any) -> int:
    """Bytes of all leaves (arrays or ``ShapeDtypeStruct``)."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_shapes(
    *,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    source: str,
    settings: str = "its config.json",
    ignore: Iterable[str] = (),
) -> None:
    """Compare names and shapes before a byte is copied.

    Args:
        expected: name -> shape, what the model has.
        found: name -> shape, what ``source`` holds.
        source: how to call the place in the message.
        settings: how to call there what the model is by.
        ignore: names that ``source`` may hold in excess.

    Raises:
        InputError: three sorted lists (missing, extra, misshaped) where any is not empty.
    """
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys() - set(ignore))
    wrong = sorted(
        f"{name} is {tuple(found[name])}, not {tuple(expected[name])}"
        for name in expected.keys() & found.keys()
        if tuple(found[name]) != tuple(expected[name])
    )
    if not (missing or extra or wrong):
        return
    parts = [
        f"{len(names)} {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("extra", extra), ("misshaped", wrong))
        if names
    ]
    raise InputError(f"{source} does not fit {settings}: {'; '.join(parts)}")
