# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What one compiled program needs, and what it does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax

from dreambooth_jax.hardware import Chip, programs
from dreambooth_jax.hardware.exchanges import Collective
from dreambooth_jax.hardware.roofline import bound
from dreambooth_jax.memory import Usage, usage_of
from dreambooth_jax.planning.result import Work
from dreambooth_jax.progress import announced
from dreambooth_jax.target import Target


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A compiled program in numbers; ``traffic`` is None where its text was not read, or the compiler refused it."""

    usage: Usage
    traffic: int | None = None
    collectives: tuple[Collective, ...] = ()
    kernels: Mapping[str, int] | None = None


@runtime_checkable
class Compiler(Protocol):
    """Compiles a program, or knows what came of it before."""

    def __call__(self, name: str, lower: Callable[[], jax.stages.Lowered], /) -> Measured:
        """``name`` is for whoever waits; ``lower`` traces the program."""
        ...


def compile_only(name: str, lower: Callable[[], jax.stages.Lowered], /) -> Measured:
    """A :class:`Compiler` that asks for memory alone."""
    with announced(f"compiling {name}", usually="a minute or two"):
        return Measured(usage=usage_of(lower()))


def compile_and_read(lowered: jax.stages.Lowered) -> Measured:
    """Memory, and all that the program's text says."""
    texts: list[str] = []
    usage = usage_of(lowered, look=lambda compiled: texts.append(compiled.as_text()))
    if not texts:
        return Measured(usage=usage)
    (text,) = texts
    return Measured(
        usage=usage,
        traffic=programs.traffic(text),
        collectives=tuple(programs.collectives(text)),
        kernels=dict(programs.kernels(text)),
    )


def _between_hosts(collectives: Sequence[Collective], target: Target) -> float:
    """Bytes that a device sends to other hosts. What is gathered and scattered by fewer devices than all stays within a
    host (``make_mapper``), and what they then add up goes between hosts."""
    cards = len(target.devices) // target.hosts
    total = 0.0
    for one in collectives if target.hosts > 1 else ():
        if one.group is None or one.group == len(target.devices):
            total += programs.moved_between_hosts(one.kind, one.bytes, target.hosts, cards)
        elif one.kind == "all-reduce":
            total += one.moved
    return total


def work_of(measured: Measured, chip: Chip | None, *, target: Target, flops: int, dtype: str) -> Work | None:
    """Of a program whose text was read, with its bound on a chip.

    Args:
        measured: the program.
        chip: the data sheet of each device.
        target: the devices.
        flops: of the program on all devices together.
        dtype: of its products.
    """
    if measured.traffic is None:
        return None
    least = (
        None
        if chip is None
        else bound(
            chip,
            flops=flops / len(target.devices),
            dtype=dtype,
            traffic=measured.traffic,
            moved=sum(one.moved for one in measured.collectives),
            moved_between_hosts=_between_hosts(measured.collectives, target) if chip.network else 0.0,
        )
    )
    return Work(
        traffic=measured.traffic,
        collectives=measured.collectives,
        kernels=dict(measured.kernels or {}),
        bound=least,
    )
