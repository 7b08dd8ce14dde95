# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run needs, as numbers that can be kept, and as the text that ``dreambooth-jax plan`` prints."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth_jax.hardware.exchanges import Collective
from dreambooth_jax.hardware.roofline import Bound
from dreambooth_jax.memory import Usage

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one device does in a program, read off what was compiled for it.

    Attributes:
        traffic: bytes from and to its memory, estimated.
        collectives: what it exchanges with others.
        kernels: how often each library's kernel stands in the program.
        bound: the least time that it can take; None where no data sheet says.
    """

    traffic: int
    collectives: tuple[Collective, ...]
    kernels: Mapping[str, int]
    bound: Bound | None


@dataclass(frozen=True, kw_only=True)
class Program:
    """One of the programs that a run compiles.

    Attributes:
        usage: of memory, on each device.
        idle: bytes on each device, while the program runs, of networks that it does not use.
        flops: operations of products and convolutions, on all devices together; what a sampler repeats counts once.
        work: None where it was compiled for the CPU.
    """

    usage: Usage
    idle: int
    flops: int
    work: Work | None = None

    @property
    def peak(self) -> int:
        """Bytes on each device."""
        return self.idle + self.usage.peak


@dataclass(frozen=True, kw_only=True)
class StepPlan(Program):
    """One step of the run, and the phases that take it.

    Attributes:
        active: groups that it trains.
        phases: first step and end of each.
        bucket: size of the instances' pictures, where there are several; else empty.
    """

    active: tuple[str, ...]
    phases: Sequence[tuple[int, int]]
    bucket: str = ""

    @property
    def name(self) -> str:
        """What it is, in words."""
        stretches = ", ".join(f"{start} to {stop}" for start, stop in self.phases)
        on = f", on {self.bucket}" if self.bucket else ""
        return f"steps {stretches}, training {' and '.join(self.active)}{on}"


@dataclass(frozen=True, kw_only=True)
class DrawPlan(Program):
    """Sampler or encoder at one number of pictures.

    Attributes:
        purpose: what they are for.
        pictures: at once on each device.
    """

    purpose: str
    pictures: int

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"{self.purpose}, {self.pictures} at once on each device"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs; printed, it is the report of ``dreambooth-jax plan``.

    Attributes:
        model: what is trained, in words.
        machine: what it was compiled for, in words.
        state: bytes on each device of what lasts, by name.
        steps: that the run takes.
        draws: pictures that it makes and encodes.
        capacity: bytes of each device; None if nobody knows.
        advice: settings to change, most useful first, with what they do.
    """

    model: str
    machine: str
    state: dict[str, int]
    steps: Sequence[StepPlan]
    draws: Sequence[DrawPlan]
    capacity: int | None
    advice: Sequence[str]

    @property
    def peak(self) -> int:
        """The most bytes that any part of the run needs on a device."""
        return max(program.peak for program in (*self.steps, *self.draws))

    @property
    def fits(self) -> bool:
        """Also where the capacity is not known."""
        return self.capacity is None or self.peak <= self.capacity

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.capacity is None:
            return f"needs {gb(self.peak)} GB on each device; how much it has is not known"
        return f"needs {gb(self.peak)} of {gb(self.capacity)} GB on each device"

    def __str__(self) -> str:
        return report(self)

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold; :meth:`from_json` makes the plan of it again."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Plan":
        """The plan that :meth:`to_json` was asked of."""

        programs = {"steps": StepPlan, "draws": DrawPlan}
        parts = {name: [program_of(kind, one) for one in content[name]] for name, kind in programs.items()}
        return cls(**{**content, **parts})


def program_of(kind: type, values: Mapping[str, Any]) -> Any:
    """A program of a kind from what ``asdict`` made of it, and JSON of that."""
    work = values["work"] and Work(
        traffic=values["work"]["traffic"],
        collectives=tuple(Collective(**one) for one in values["work"]["collectives"]),
        kernels=values["work"]["kernels"],
        bound=values["work"]["bound"] and Bound(**values["work"]["bound"]),
    )
    tuples: dict[str, Any] = {}
    if kind is StepPlan:
        tuples = {"active": tuple(values["active"]), "phases": [tuple(pair) for pair in values["phases"]]}
    return kind(**{**values, **tuples, "usage": Usage(**values["usage"]), "work": work})


def gb(size: float | int) -> str:
    """Bytes as GB, to three digits."""
    return f"{size / GB:.3g}"


def report(plan: Plan) -> str:
    """All numbers of a plan, and what to change if it does not fit."""
    lines = [plan.model, plan.machine, "", "on each device, GB"]
    lines += [_line(name, size) for name, size in plan.state.items()]
    for step in plan.steps:
        lines += [step.name, *_memory(step, "activations, gradients")]
        lines[-1] += f"    {step.flops / 1e12:.3g} TFLOP a step, all devices together"
        lines += _work(step.work) if step.work else []
    for draw in plan.draws:
        lines += [draw.name, *_memory(draw, "activations")]
    lines += ["", f"{'fits' if plan.fits else 'does not fit'}: {plan.verdict}"]
    if not plan.fits:
        lines += ["what to change, the first that is enough:", *(f"  {line}" for line in plan.advice)]
    return "\n".join(lines)


def _line(name: str, size: float | int, rest: str = "") -> str:
    return f"  {name:<24}{gb(size):>8}" + (f"    {rest}" if rest else "")


def _memory(program: Program, temporaries: str) -> list[str]:
    return [_line(temporaries, program.usage.temporaries), _line("peak", program.peak)]


def _work(work: Work) -> Iterator[str]:
    yield _line("memory traffic", work.traffic, "a step, read off the program")
    for one in work.collectives:
        yield _line(one.kind, one.bytes, f"a step, {one.dtype}, {one.count} times; each device sends {gb(one.moved)}")
    if work.bound is None:
        return
    parts = {"arithmetic": work.bound.arithmetic, "memory": work.bound.memory, "links": work.bound.links}
    reasons = ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in parts.items() if seconds)
    yield f"  {'at least, ms a step':<24}{1e3 * work.bound.seconds:>8.3g}    by data sheets, not measured: {reasons}"
