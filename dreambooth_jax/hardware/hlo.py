# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Optimised HLO text (``compiled.as_text()``) as computations of instructions.

    %name = f32[8,128]{1,0:T(8,128)S(1)} opcode(%operand, ...), calls=%computation, backend_config={...}

An array's layout says how it lies in memory: ``1,0`` from the fastest axis to the slowest, ``T`` the tiles that a TPU
pads it to, ``S`` the memory it lies in, 0 or nothing being the device's large one (HBM).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) \(")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%(\S+) = ")
_NAME = re.compile(r"%([^\s,(){}]+)")


@dataclass(frozen=True)
class Array:
    """One array of a program; ``dtype`` as in HLO (``f32``, ``bf16``, ``pred``)."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of its numbers."""
        return self._bytes(prod(self.shape))

    @cached_property
    def stored(self) -> int:
        """Bytes that it takes in memory: on TPUs whole tiles."""
        match = re.search(r"T\(([\d,]+)\)", self.layout)
        if match is None:
            return self.bytes
        tile = [int(number) for number in match[1].split(",")]
        order = [int(axis) for axis in self.layout[1:].split(":")[0].split(",") if axis]
        sizes = [1] * len(tile) + [self.shape[axis] for axis in reversed(order)]  # slowest first
        padded = [-(-size // by) * by for size, by in zip(sizes[-len(tile) :], tile)]
        return self._bytes(prod(sizes[: -len(tile)]) * prod(padded))

    @cached_property
    def in_hbm(self) -> bool:
        """Whether it lies in the device's large memory, not in a TPU's on-chip ones, nor on the host (5)."""
        space = self.space
        return space == 0 or (space == 1 and "T(" not in self.layout)  # GPUs: 1 is memory that NCCL has registered

    @property
    def space(self) -> int:
        match = re.search(r"S\((\d+)\)", self.layout)
        return int(match[1]) if match else 0

    @property
    def hbm(self) -> int:
        """Bytes that it takes in HBM."""
        return self.stored if self.in_hbm else 0

    def _bytes(self, elements: int) -> int:
        if self.dtype in ("pred", "token", "opaque"):
            return elements if self.dtype == "pred" else 0
        match = re.match(r"[a-z]+(\d+)", self.dtype)
        return -(-elements * int(match[1] if match else 0) // 8)


@dataclass(frozen=True)
class Instruction:
    """One line: ``inside`` is what stands between the brackets after the opcode, ``rest`` all that follows them."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    inside: str
    rest: str

    @cached_property
    def operands(self) -> tuple[str, ...]:
        return () if self.opcode in ("constant", "parameter") else tuple(names(self.inside))

    def called(self, attribute: str) -> str:
        """Name of the computation that an attribute names, or nothing."""
        match = re.search(rf"\b{attribute}=%([^\s,]+)", self.rest)
        return match[1] if match else ""

    @property
    def target(self) -> str:
        """``custom_call_target``, or nothing."""
        match = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return match[1] if match else ""

    @property
    def base(self) -> str:
        """The opcode of both halves of a pair: ``all-reduce`` of ``all-reduce-start``."""
        return re.sub(r"-(start|update|done)$", "", self.opcode)


@dataclass
class Computation:
    """Instructions by name, in the order of the text, which is that of the schedule."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)
    root: str = ""

    def arrays(self, names: tuple[str, ...]) -> list[Array]:
        """All arrays of these instructions' results."""
        return [array for name in names if name in self.instructions for array in self.instructions[name].results]

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who takes an instruction's result, once for each."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                found.setdefault(name, []).append(instruction)
        return found

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(one.inside): one for one in self.instructions.values() if one.opcode == "parameter"}


@dataclass
class Program:
    """All computations, the name of the entry, and how many devices run it."""

    computations: dict[str, Computation]
    entry: str
    devices: int


def parse(text: str) -> Program:
    """Read a module's text."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(match[2], line, match.end())
            current.instructions[instruction.name] = instruction
            if match[1]:
                current.root = instruction.name
        elif line.endswith("{") and (match := _COMPUTATION.match(line)):
            current = computations[match[2]] = Computation(match[2])
            entry = match[2] if match[1] else entry
        elif line.rstrip() == "}":  # "}}, ..." goes on with an attribute that has lines of its own (Pallas' metadata)
            current = None
    header = text[: text.find("\n")]
    counts = [int(number) for number in re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)]
    return Program(computations, entry, prod(counts))


def _instruction(name: str, line: str, start: int) -> Instruction:
    """``start`` is where the type begins."""
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    bracket = line.index("(", end)
    close = _closing(line, bracket)
    return Instruction(
        name=name,
        opcode=line[end:bracket].strip(),
        results=tuple(arrays(line[start:end])),
        inside=line[bracket + 1 : close - 1],
        rest=line[close:],
    )


def _closing(line: str, start: int) -> int:
    """Just behind the bracket that closes the one at ``start``."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    return len(line)


def arrays(text: str) -> Iterator[Array]:
    """All arrays of a type, those of nested tuples too; of dynamic sizes (``<=8``) the largest."""
    for dtype, sizes, layout in _ARRAY.findall(text):
        yield Array(dtype, tuple(int(size.strip("<= ")) for size in sizes.split(",") if size.strip()), layout)


def names(text: str) -> list[str]:
    """What a text refers to with ``%``."""
    return _NAME.findall(text)
