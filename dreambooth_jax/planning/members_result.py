# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many members one program trains on a device, as numbers that can be kept and as text.

    peak(n members on a device) = peak(1) + (n - 1) (peak(2) - peak(1))

What members share lies there once; each adds its state and the activations of its rows, so that two programs tell all.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth_jax.planning.result import Program, gb, program_of


@dataclass(frozen=True, kw_only=True)
class GroupStep(Program):
    """A step that members take together.

    Attributes:
        members: S.
        active: groups that it trains.
    """

    members: int
    active: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MembersPlan:
    """What a group of members needs; printed, it is the report of ``dreambooth-jax plan --members``.

    Attributes:
        model: what each member trains, in words.
        machine: what it was compiled for, in words.
        wanted: members that are to be trained.
        devices: how many there are.
        steps: with one member on each device and with two, and with as many as :attr:`at_once`.
        state: bytes of each member's adapter, moments and moving average.
        capacity: bytes of each device; None if nobody knows.
    """

    model: str
    machine: str
    wanted: int
    devices: int
    steps: Sequence[GroupStep]
    state: int
    capacity: int | None

    def peak(self, each: int) -> int:
        """Bytes on a device with so many members."""
        one, two = (max(step.peak for step in self.steps if step.members == number * self.devices) for number in (1, 2))
        return one + (each - 1) * (two - one)

    @property
    def most(self) -> int | None:
        """Members that fit on a device; None if nobody knows how much it has."""
        if self.capacity is None:
            return None
        more = max(self.peak(2) - self.peak(1), 1)
        return max(0, 1 + (self.capacity - self.peak(1)) // more)

    @property
    def at_once(self) -> int:
        """Members of a group: as few groups as there can be, of about one size; 0 if not even one fits."""
        if self.most is None:
            return self.wanted
        if not self.most:
            return 0
        return math.ceil(self.wanted / math.ceil(self.wanted / (self.most * self.devices)))

    @property
    def fits(self) -> bool:
        """Does at least one member, and did what was compiled?"""
        compiled = [step.peak for step in self.steps if step.members == self.at_once]
        return self.at_once > 0 and (self.capacity is None or max(compiled, default=0) <= self.capacity)

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.capacity is None:
            needed = gb(self.peak(math.ceil(self.wanted / self.devices)))
            return f"{self.wanted} members need {needed} GB on each device; how much it has is not known"
        room = f"of {gb(self.capacity)} GB"
        if not self.most:
            return f"one member needs {gb(self.peak(1))} {room} on each device"
        groups = math.ceil(self.wanted / self.at_once)
        these = f"{groups} groups of at most {self.at_once} (--at_once {self.at_once})" if groups > 1 else "one group"
        return f"{self.most} members fit on each device {room}: {self.wanted} are {these}"

    def __str__(self) -> str:
        lines = [self.model, self.machine, "", f"each member's adapter and moments: {self.state / 1e6:.3g} MB", ""]
        lines += ["members  peak, GB on each device  activations  TFLOP a member  at least, ms a member and step"]
        for step in sorted(self.steps, key=lambda step: step.members):
            bound = step.work.bound if step.work else None
            least = f"{1e3 * bound.seconds * self.devices / step.members:>8.3g}" if bound else f"{'-':>8}"
            flops = step.flops / 1e12 / step.members
            name = f"{step.members:>7}  {gb(step.peak):>23}  {gb(step.usage.temporaries):>11}  {flops:>14.3g}  {least}"
            lines.append(f"{name}    {' and '.join(step.active)}")
        return "\n".join([*lines, "", self.verdict])

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold; :meth:`from_json` makes the plan of it again."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "MembersPlan":
        """The plan that :meth:`to_json` was asked of."""
        steps = [program_of(GroupStep, {**one, "active": tuple(one["active"])}) for one in content["steps"]]
        return cls(**{**content, "steps": steps})
