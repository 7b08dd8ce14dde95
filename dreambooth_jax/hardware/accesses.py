# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a program reads from and writes to the memory of a device, read from its text.

A fusion reads of an operand what its inner instructions use of it, and writes what its root makes:

    parameter -> dynamic-slice -> ...           reads the slice
    parameter -> dynamic-update-slice = root    reads nothing and writes the update, in place
    anything else                               all of it, once
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from dreambooth_jax.hardware.exchanges import KINDS, goes_on
from dreambooth_jax.hardware.hlo import Array, Computation, Instruction, Program, parse
from dreambooth_jax.hardware.loops import once, walk

# What neither takes memory of its own nor touches it.
_NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "async-start",
    "async-update", "async-done", "after-all", "optimization-barrier", "add-dependency", "partition-id", "replica-id",
    "domain",
}  # fmt: skip
# Likewise, of a TPU's custom calls.
_NO_CALLS = {"AllocateBuffer", "ConcatBitcast", "AsyncCollectiveDone"}
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Materialised:
    """Arrays of one shape that a program writes to memory: ``bytes`` of one of them, with the padding of TPU tiles."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    opcode: str
    count: int
    source: str


def traffic(text: str) -> int:
    """Bytes that a device reads from and writes to its memory (HBM): an estimate.

    Each instruction of the entry, of loops and of called computations reads its operands and writes its results once;
    a fusion is one instruction, whose inner values stay in registers. Slices that are read or updated in place count,
    not the arrays they are of. On TPUs arrays in on-chip memory count nothing, and padding to tiles counts.

    Not an upper bound, for a kernel may read an operand several times; nor a strict lower one, for caches keep some.
    Of ``compiled.cost_analysis()["bytes accessed"]`` on TPUs it differs thus: that counts the body of a loop once,
    arrays in on-chip memory too, and no padding; on GPUs compiled for without a GPU there is none.
    """
    program = parse(text)
    return sum(once(times) * accessed(program, computation, one) for computation, one, times in walk(program))


def largest(text: str, n: int = 10) -> list[Materialised]:
    """The largest arrays that instructions outside of fusions write to memory; ``count`` leaves loops aside."""
    program = parse(text)
    counts: Counter[tuple[tuple[int, ...], str, int, str]] = Counter()
    sources: dict[tuple[tuple[int, ...], str, int, str], str] = {}
    for computation, one, _ in walk(program):
        if one.opcode in _NOTHING or one.opcode.endswith(("-start", "-update")):
            continue
        for array, amount in written(program, computation, one):
            if amount == array.hbm > 0:  # less is an update in place
                key = (array.shape, array.dtype, array.stored, one.base)
                counts[key] += 1
                sources.setdefault(key, _source(one))
    found = [Materialised(*key, counts[key], sources[key]) for key in counts]
    return sorted(found, key=lambda one: -one.bytes)[:n]


def _source(one: Instruction) -> str:
    match = re.search(r'op_name="([^"]*)"', one.rest)
    return match[1] if match else one.name


def accessed(program: Program, home: Computation, one: Instruction) -> int:
    """Bytes that one instruction reads and writes. Of a pair, the start reads and the done writes."""
    if one.opcode in _NOTHING or one.target in _NO_CALLS or one.opcode.endswith("-update"):
        return 0
    reads = 0 if one.opcode.endswith("-done") else _read(program, home, one)
    writes = 0 if one.opcode.endswith("-start") else sum(amount for _, amount in written(program, home, one))
    return reads + writes


def _read(program: Program, home: Computation, one: Instruction) -> int:
    """Bytes of HBM that an instruction reads."""
    fused = program.computations.get(one.called("calls")) if one.base == "fusion" else None
    if fused is not None:
        return sum(_read_of(program, fused, index) for index in range(len(one.operands)))
    operands = [home.arrays((name,)) for name in one.operands]
    if one.base in _SLICES and operands:
        # a start's results begin with its operands; what it makes comes next
        made = one.results[len(operands[0]) if one.opcode.endswith("-start") else 0]
        return made.stored if all(array.in_hbm for array in operands[0]) else 0
    if one.base == "dynamic-update-slice":
        operands = operands[1:2]
    return sum(array.hbm for arrays in operands for array in arrays)


def _read_of(program: Program, fused: Computation, index: int) -> int:
    """Bytes of HBM that a fusion reads of one operand."""
    parameter = fused.parameters.get(index)
    if parameter is None:
        return 0
    whole = sum(array.hbm for array in parameter.results)
    return min(whole, _used(program, fused, parameter.name, whole)) if whole else 0


def _used(program: Program, fused: Computation, name: str, whole: int) -> int:
    """Bytes that the users of a value inside of a fusion need of it."""
    total = 0
    for user in fused.users.get(name, []):
        if user.opcode == "bitcast":
            total += _used(program, fused, user.name, whole)
        elif user.opcode in _SLICES and user.operands[0] == name and name not in user.operands[1:]:
            total += user.results[0].stored
        elif user.opcode == "fusion" and user.called("calls") in program.computations:
            inner = program.computations[user.called("calls")]
            total += sum(
                _used(program, inner, inner.parameters[place].name, whole)
                for place, operand in enumerate(user.operands)
                if operand == name
            )
        elif not _untouched(fused, user, name):
            return whole
    return total


def _untouched(fused: Computation, user: Instruction, name: str) -> bool:
    """Whether a user takes a value but does not read it: returns it, updates it in place, waits for its exchange."""
    if user.opcode == "tuple" or user.target == "AsyncCollectiveDone":
        return True
    if user.opcode == "dynamic-update-slice" and user.operands[0] == name and name not in user.operands[1:]:
        return any(root.name == user.name for root in _roots(fused))
    return user.opcode in KINDS and goes_on(fused)


def written(program: Program, home: Computation, one: Instruction) -> list[tuple[Array, int]]:
    """Arrays that an instruction makes, each with the bytes of HBM that it writes of it."""
    if one.target in _NO_CALLS - {"AllocateBuffer"}:
        return []
    if one.opcode == "dynamic-update-slice":
        return [(one.results[0], _update(home, one))]
    fused = program.computations.get(one.called("calls")) if one.opcode == "fusion" else None
    if fused is not None:
        return _written_by_fusion(program, fused, one)
    results = one.results
    if one.target.startswith("__cu") and len(results) > 1:
        # workspaces of cuBLAS and cuDNN take memory, but nobody knows how much of them is used
        return [(array, 0 if array.dtype in ("s8", "u8") and len(array.shape) == 1 else array.hbm) for array in results]
    return [(array, array.hbm) for array in results]


def _written_by_fusion(program: Program, fused: Computation, one: Instruction) -> list[tuple[Array, int]]:
    roots = list(_roots(fused))
    if len(roots) == 1 and roots[0].target.startswith("AsyncCollective"):
        # its results are its operands, what is exchanged, and semaphores
        begins = roots[0].target == "AsyncCollectiveStart"
        return [(array, array.hbm) for array in one.results[len(one.operands) :]] if begins else []
    if len(roots) != len(one.results):
        return [(array, array.hbm) for array in one.results]
    found = []
    for root, array in zip(roots, one.results):
        amount = array.hbm
        if root.opcode == "parameter" or (root.opcode in KINDS and goes_on(fused)):
            amount = 0
        elif root.opcode == "dynamic-update-slice":
            amount = min(amount, _update(fused, root))
        elif root.opcode == "fusion" and (inner := program.computations.get(root.called("calls"))):
            amount = min(amount, sum(bytes for _, bytes in _written_by_fusion(program, inner, root)) or amount)
        found.append((array, amount))
    return found


def _roots(fused: Computation) -> Iterator[Instruction]:
    """What a fusion returns, behind bitcasts."""
    root = fused.instructions[fused.root]
    for name in root.operands if root.opcode == "tuple" else (root.name,):
        one = fused.instructions[name]
        while one.opcode == "bitcast":
            one = fused.instructions[one.operands[0]]
        yield one


def _update(home: Computation, one: Instruction) -> int:
    """Bytes that a dynamic-update-slice writes."""
    return sum(array.stored for array in home.arrays(one.operands[1:2])) if one.results[0].in_hbm else 0
