# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What of an optimised program runs, and how often: its loops counted.

XLA for CPUs and GPUs writes it down (``known_trip_count``); for TPUs it must be read off: the condition compares a
number that the loop carries with a limit, its body adds to it, and before the loop it is set.

    while (i < limit) { i = i + step }, i = first        limit, step and first traced to constants
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dreambooth_jax.hardware.hlo import Computation, Instruction, Program, names

_SAME = ("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape")


def walk(program: Program) -> Iterator[tuple[Computation, Instruction, int | None]]:
    """Instructions that the device is given one after the other, and how often: None in a loop without a readable
    count.

    These are the entry's and those of loops, calls and asynchronous computations; a fusion is one instruction. Every
    branch of a conditional is walked as though it were taken.
    """
    waiting: list[tuple[str, int | None]] = [(program.entry, 1)]
    while waiting:
        name, times = waiting.pop()
        if name not in program.computations:
            continue
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            if instruction.opcode == "while":
                count = trips(program, computation, instruction)
                waiting.append(
                    (instruction.called("body"), None if None in (count, times) else (count or 0) * (times or 0))
                )
            elif instruction.opcode == "conditional":
                listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
                two = [instruction.called("true_computation"), instruction.called("false_computation")]
                waiting += [(branch, times) for branch in (names(listed[1]) if listed else two)]
            elif instruction.opcode in ("call", "async-start"):
                waiting.append((instruction.called("to_apply") or instruction.called("calls"), times))


def once(times: int | None) -> int:
    """How often to count what ``walk`` gives: what nobody can read counts once."""
    return 1 if times is None else times


@dataclass(frozen=True)
class _Place:
    """Where an instruction stands, and who called its computation, if that is a fusion."""

    computation: Computation
    caller: "tuple[_Place, Instruction] | None" = None


def trips(program: Program, outside: Computation, loop: Instruction) -> int | None:
    """Runs of the body of a ``while`` that stands in ``outside``; None if it cannot be read."""
    match = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.rest)
    if match:
        return int(match[1])
    condition = program.computations.get(loop.called("condition"))
    body = program.computations.get(loop.called("body"))
    if condition is None or body is None:
        return None
    place, test = _origin(program, _Place(condition), condition.root)
    if test is None or test.opcode != "compare" or len(test.operands) != 2:
        return None
    carried, limit = (_origin(program, place, operand) for operand in test.operands)
    index = _index(carried[1])
    if index is None:
        return None
    last = _constant(limit[1])
    if last is None:
        last = _first(program, outside, loop, _index(limit[1]))
    first = _first(program, outside, loop, index)
    step = _step(program, outside, loop, body, index)
    direction = re.search(r"direction=(\w+)", test.rest)
    if last is None or first is None or not step or direction is None:
        return None
    return _count(direction[1], first, last, step)


def _count(direction: str, first: int, last: int, step: int) -> int | None:
    if direction in ("LE", "GE"):
        last += 1 if direction == "LE" else -1
    if direction in ("GT", "GE"):
        first, last, step = -first, -last, -step
    if step < 0:
        return None  # it never ends
    return max(0, -(-(last - first) // step))


def _origin(program: Program, place: _Place, name: str) -> tuple[_Place, Instruction | None]:
    """The instruction that a value comes from, through copies and into and out of fusions."""
    while True:
        instruction = place.computation.instructions.get(name)
        if instruction is None:
            return place, None
        if instruction.opcode in _SAME and instruction.operands:
            name = instruction.operands[0]
        elif instruction.opcode == "fusion" and instruction.called("calls") in program.computations:
            called = program.computations[instruction.called("calls")]
            place, name = _Place(called, (place, instruction)), called.root
        elif instruction.opcode == "parameter" and place.caller is not None:
            index = int(instruction.inside)
            place, caller = place.caller
            name = caller.operands[index]
        else:
            return place, instruction


def _constant(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.inside):
        return None
    return int(instruction.inside)


def _index(instruction: Instruction | None) -> int | None:
    """Which of the carried values a get-tuple-element takes."""
    match = re.search(r"\bindex=(\d+)", instruction.rest) if instruction is not None else None
    return int(match[1]) if match and instruction is not None and instruction.opcode == "get-tuple-element" else None


def _first(program: Program, outside: Computation, loop: Instruction, index: int | None) -> int | None:
    """A carried value before the loop."""
    carried = outside.instructions.get(loop.operands[0])
    if carried is None or carried.opcode != "tuple" or index is None or index >= len(carried.operands):
        return None
    return _constant(_origin(program, _Place(outside), carried.operands[index])[1])


def _step(program: Program, outside: Computation, loop: Instruction, body: Computation, index: int) -> int | None:
    """What the body adds to a carried value."""
    carried = body.instructions.get(body.root)
    if carried is None or carried.opcode != "tuple" or index >= len(carried.operands):
        return None
    place, added = _origin(program, _Place(body), carried.operands[index])
    if added is None or added.opcode not in ("add", "subtract"):
        return None
    itself, amounts = False, []
    for operand in added.operands:
        _, source = _origin(program, place, operand)
        amount = _constant(source)
        if amount is None and _index(source) == index:
            itself = True
        else:
            amounts.append(amount if amount is not None else _first(program, outside, loop, _index(source)))
    if not itself or len(amounts) != 1 or amounts[0] is None:
        return None
    return amounts[0] if added.opcode == "add" else -amounts[0]
