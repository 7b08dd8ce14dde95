# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the devices of a program send one another, read from its text.

    all-reduce          (n - 1) / n of the payload twice        payload: what a device gives
    all-gather          (n - 1) / n                             payload: what a device then has
    reduce-scatter      (n - 1) / n                             payload: what a device gives
    all-to-all          (n - 1) / n                             payload: what a device gives
    collective-permute  all                                     payload: what a device gives

is what each of n devices sends when they stand in a ring.
"""

import re
from collections import Counter
from dataclasses import dataclass
from math import prod

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware.hlo import Computation, Instruction, Program, parse
from dreambooth_jax.hardware.loops import once, walk

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Memories of TPUs for semaphores and other flags.
_FLAGS = (2, 4)


@dataclass(frozen=True)
class Collective:
    """All exchanges of one kind, dtype and size of group.

    Attributes:
        kind: as in ``KINDS``.
        dtype: as HLO writes it, several joined by ``+`` where one exchange carries several.
        group: devices that exchange with one another, or None where the text does not say.
        count: how often they happen.
        bytes: payload of one device, all of them together: what ``all-gather`` makes, and what the others take.
    """

    kind: str
    dtype: str
    group: int | None
    count: int
    bytes: int

    @property
    def moved(self) -> float:
        """Bytes that one device sends."""
        return moved(self.kind, self.bytes, self.group)


def moved(kind: str, payload: int | float, group: int | None) -> float:
    """Bytes that each of a ring of ``group`` devices sends for a payload as ``Collective.bytes`` has it.

    Nothing sends fewer, but switches that add up what passes them (NVLink SHARP), which halve an all-reduce. A group
    of unknown size counts as a very large one.
    """
    if kind not in KINDS:
        raise InputError(f"collective {kind!r}: not one of {', '.join(KINDS)}")
    if kind == "collective-permute":
        return float(payload)
    share = 1.0 if group is None else (group - 1) / group
    return payload * share * (2 if kind == "all-reduce" else 1)


def moved_between_hosts(kind: str, payload: int | float, hosts: int, cards: int) -> float:
    """The bytes of ``moved`` that each of ``cards`` devices of a host sends to other hosts, for a group of all
    devices.

    At best each host exchanges with the others once and its cards share that; what differs for each pair of devices
    cannot be shared.
    """
    if kind in ("all-to-all", "collective-permute"):
        return moved(kind, payload, hosts) if hosts > 1 else 0.0
    return moved(kind, payload, hosts) / cards


def collectives(text: str) -> list[Collective]:
    """Exchanges of one device by kind, dtype and group, most bytes first; a pair of start and done is one."""
    program = parse(text)
    counts: Counter[tuple[str, str, int | None]] = Counter()
    payloads: Counter[tuple[str, str, int | None]] = Counter()
    for computation, instruction, times in walk(program):
        for home, one in _exchanges(program, computation, instruction):
            dtype, payload = _payload(home, one)
            key = (_kind(home, one), dtype, _group(one, program.devices))
            counts[key] += once(times)
            payloads[key] += once(times) * payload
    found = [Collective(*key, counts[key], payloads[key]) for key in counts]
    return sorted(found, key=lambda one: (-one.bytes, one.kind, one.dtype))


def _exchanges(program: Program, computation: Computation, one: Instruction) -> list[tuple[Computation, Instruction]]:
    """Collectives that begin with an instruction: itself, or what a TPU's fusion holds."""
    if one.base in KINDS and not one.opcode.endswith(("-done", "-update")):
        return [(computation, one)]
    if one.base != "fusion" or one.opcode.endswith("-done"):
        return []
    fused = program.computations.get(one.called("calls"))
    if fused is None or goes_on(fused):
        return []
    return [(fused, inner) for inner in fused.instructions.values() if inner.base in KINDS]


def goes_on(fused: Computation) -> bool:
    """Whether a TPU's fusion only continues an exchange that another began, and that hands it semaphores."""
    return any(array.space in _FLAGS for one in fused.parameters.values() for array in one.results)


def _kind(home: Computation, one: Instruction) -> str:
    # a TPU's reduce-scatter may be an all-reduce of which the same fusion takes a slice
    scattered = one.base == "all-reduce" and home.name.startswith("all-reduce-scatter")
    return "reduce-scatter" if scattered else one.base


def _payload(home: Computation, one: Instruction) -> tuple[str, int]:
    taken = home.arrays(one.operands)
    total = sum(array.bytes for array in taken)
    if one.base == "all-gather":
        made = sum(array.bytes for array in one.results if array.space not in _FLAGS)
        total = made - total if one.opcode.endswith("-start") else made  # a start also returns what it was given
    return "+".join(sorted({array.dtype for array in taken})), total


def _group(one: Instruction, devices: int) -> int | None:
    """Devices in a group, in any of XLA's three ways to write groups down."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", one.rest):
        return len(set(re.findall(r"\d+", pairs[1])))
    if re.search(r"replica_groups=\{\}", one.rest):
        return devices
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", one.rest):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", one.rest):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", one.rest):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", mesh[2])  # 'x':(2)4 is a part of axis x
        return prod(int(part or sizes[axis]) for axis, part in axes)
    return None
