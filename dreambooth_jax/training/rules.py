# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rates, decay and schedules of some leaves, by patterns on their names.

    .*/lora_up rate=16                                  LoRA+ (arXiv 2402.12354)
    unet/down_blocks.* rate=0.5 weight_decay=0
    text_encoder/.* learning_rate=1e-5 schedule=cosine warmup_steps=50

A rule is a pattern on whole names (``unet/conv_in/kernel``) and what is other there. Factors ``rate`` of all rules that
match a leaf multiply; of anything else, the first rule that says it counts. Leaves that are treated alike have one
optimizer, so that whatever an optimizer finds out about a rate, it finds out for each treatment.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import optax

from dreambooth_jax.config.setting import shown
from dreambooth_jax.errors import InputError, nearest
from dreambooth_jax.trees import Tree, flatten, map_named

K = TypeVar("K")

SCHEDULES = (
    "constant",
    "linear",
    "cosine",
    "polynomial",
    "cosine_restarts",
    "inverse_sqrt",
    "one_cycle",
)
"""Names of schedules."""


class Rule(NamedTuple):
    """What is other for the leaves whose whole name a pattern matches; None stays."""

    pattern: str
    rate: float = 1.0
    """Factor of the learning rate."""
    learning_rate: float | None = None
    """Peak, in the place of the group's."""
    weight_decay: float | None = None
    schedule: str | None = None
    warmup_steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule of ``PATTERN NAME=VALUE ...``.

        Raises:
            InputError: naming what cannot be read.
        """
        pattern, *parts = text.split() or [""]
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"optimizer.rules {shown(text)}: {shown(pattern)} is no regular expression ({error})"
            ) from error
        found: dict[str, Any] = {}
        for part in parts:
            name, _, value = part.partition("=")
            if name not in _READERS or name in found:
                way = (
                    "stands there twice"
                    if name in found
                    else f"is none of {', '.join(_READERS)}{nearest(name, _READERS)}"
                )
                raise InputError(f"optimizer.rules {shown(text)}: {shown(name)} {way}")
            found[name] = _read(text, name, value)
        if not found:
            raise InputError(f"optimizer.rules {shown(text)} says nothing: add such as rate=0.1 or weight_decay=0")
        return cls(pattern, **found)


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e30:
        raise ValueError
    return value


def _whole(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise ValueError
    return value


def _schedule(text: str) -> str:
    if text not in SCHEDULES:
        raise ValueError
    return text


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "rate": (_not_negative, "a number of at least 0"),
    "learning_rate": (_not_negative, "a number of at least 0"),
    "weight_decay": (_not_negative, "a number of at least 0"),
    "schedule": (_schedule, f"one of {', '.join(SCHEDULES)}"),
    "warmup_steps": (_whole, "a whole number of at least 0"),
}


def _read(text: str, name: str, value: str) -> Any:
    reader, kind = _READERS[name]
    try:
        return reader(value)
    except ValueError as error:
        raise InputError(f"optimizer.rules {shown(text)}: {name} is {shown(value)}, but must be {kind}") from error


class Treatment(NamedTuple):
    """How some leaves are trained."""

    learning_rate: float
    weight_decay: float
    schedule: str
    warmup_steps: int


def treatment_of(name: str, rules: Sequence[Rule], base: Treatment) -> Treatment:
    """How a leaf is trained that without rules would be trained as ``base``."""
    hits = [rule for rule in rules if re.fullmatch(rule.pattern, name)]
    told: dict[str, Any] = {}
    for rule in reversed(hits):
        values = {field: getattr(rule, field) for field in Treatment._fields}
        told |= {field: value for field, value in values.items() if value is not None}
    treatment = base._replace(**told)
    factor = 1.0
    for rule in hits:
        factor *= rule.rate
    return treatment._replace(learning_rate=treatment.learning_rate * factor)


def check_used(rules: Sequence[Rule], trainable: Tree) -> None:
    """Raise InputError, naming them, where rules match none of the leaves."""
    names = list(flatten(trainable))
    unused = [rule.pattern for rule in rules if not any(re.fullmatch(rule.pattern, name) for name in names)]
    if unused:
        raise InputError(
            f"optimizer.rules: {'; '.join(unused)} match nothing that is trained; names are such as {names[0]}"
        )


def by_treatment(
    group: str,
    tree: Tree,
    *,
    rules: Sequence[Rule],
    base: Treatment,
    make: Callable[[Treatment], optax.GradientTransformation],
) -> optax.GradientTransformation:
    """The optimizer of a group, put together from one for each treatment of its leaves.

    Args:
        group: the first part of its leaves' names.
        tree: of the group, arrays or shapes.
        rules: of all groups.
        base: how leaves are trained that no rule is about.
        make: the optimizer of a treatment.
    """
    return by_kind(tree, treatments_of(group, tree, rules, base), make=make)


def treatments_of(group: str, tree: Tree, rules: Sequence[Rule], base: Treatment) -> dict[str, Treatment]:
    """How each leaf of a group is trained, by its name in the group; arguments as in :func:`by_treatment`."""
    return {name: treatment_of(f"{group}/{name}", rules, base) for name in flatten(tree)}


def rates_told(group: str, tree: Tree, rules: Sequence[Rule], base: Treatment) -> dict[str, Treatment]:
    """Of a group, each learning rate that any of its leaves has, by what is to be told of it: the patterns of the rules
    that say so, in their order, or nothing for leaves that no rule is about, and where all have the same. Decay, which
    is no matter of rates, is the group's; arguments as in :func:`by_treatment`."""
    told: dict[Treatment, str] = {}
    for name, treatment in treatments_of(group, tree, rules, base).items():
        patterns = (rule.pattern for rule in rules if re.fullmatch(rule.pattern, f"{group}/{name}"))
        told.setdefault(treatment._replace(weight_decay=base.weight_decay), " ".join(patterns))
    return {label if len(told) > 1 else "": treatment for treatment, label in told.items()}


def by_kind(
    tree: Tree, kinds: Mapping[str, K], *, make: Callable[[K], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """An optimizer put together from one for each kind of leaves.

    Args:
        tree: of a group, arrays or shapes.
        kinds: of each leaf, by its name.
        make: the optimizer of a kind.
    """
    different = list(dict.fromkeys(kinds.values()))
    if len(different) == 1:
        return make(different[0])
    labels = map_named(lambda name, leaf: different.index(kinds[name]), tree)
    parts: Mapping[int, optax.GradientTransformation] = {i: make(one) for i, one in enumerate(different)}
    return optax.partition(parts, labels)
