# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Bytes: what a device has, what arrays take of it, and what a compiled program needs.

    peak of a program = arguments + results - arguments whose memory results take over (donated) + temporaries

All of it is per device, and known before anything is allocated.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes of a program on each device.

    Attributes:
        arguments: what it is given.
        results: what it gives, less what lies where arguments lay.
        temporaries: what it needs meanwhile: activations, gradients, workspaces.
    """

    arguments: int
    results: int
    temporaries: int

    @classmethod
    def of(cls, compiled: Any) -> "Usage":
        """What the compiler says of a program; zeros where a platform says nothing."""
        stats = compiled.memory_analysis()
        if stats is None:
            return cls(arguments=0, results=0, temporaries=0)
        return cls(
            arguments=stats.argument_size_in_bytes,
            results=stats.output_size_in_bytes - stats.alias_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
        )

    @property
    def peak(self) -> int:
        """The most that the program and its arguments take together."""
        return self.arguments + self.results + self.temporaries


def usage_of(
    lowered: Any, *, look: Callable[[Any], None] = lambda compiled: None, options: dict[str, Any] | None = None
) -> Usage:
    """Compile a program and ask what it needs.

    What the compiler of a TPU refuses for want of memory needs what it says, which is then given as temporaries.

    Args:
        lowered: a ``jax.stages.Lowered``.
        look: is shown the compiled program, if it compiles.
        options: for the compiler.
    """
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        refused = "RESOURCE_EXHAUSTED" in str(error) and "hbm" in str(error).lower()
        said = re.findall(r"\b(\d+\.\d+)([KMGT])\b", str(error)) if refused else []
        if not said:
            raise
        # of what is needed, what there is, and what of it is for what, the first is the most
        needed = max(float(number) * 1024 ** (1 + "KMGT".index(unit)) for number, unit in said)
        return Usage(arguments=0, results=0, temporaries=int(needed))
    look(compiled)
    return Usage.of(compiled)


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device has of arrays, or of shapes with shardings; of shapes without them, all bytes."""

    def size(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = sharding.shard_shape(leaf.shape) if sharding is not None else leaf.shape
        return int(leaf.dtype.itemsize) * _product(shape)

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def _product(numbers: Iterable[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def capacity(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that this process can have of each of its devices; None where nobody knows.

    Of an accelerator it is what its allocator may take. Of a CPU it is an equal share for each of its (pretended)
    devices of what is free now or this process's already, but no more than a container's limit.
    """
    if devices[0].platform != "cpu":
        return (devices[0].memory_stats() or {}).get("bytes_limit")
    host = host_memory()
    return None if host is None else host // len(devices)


def used(device: jax.Device) -> int:
    """Bytes of a device that arrays take now; on a CPU this is not known of each device, so none."""
    return 0 if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_in_use", 0)


def host_memory() -> int | None:
    """Bytes of memory that this process has or can get, swap included; None on systems that do not say so."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    available = 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0)) + resident
    return min([available, *_limits()])


def _limits() -> list[int]:
    """Limits of the control groups (version 2, version 1) that a container sees as its own."""
    found = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found.append(int((_GROUPS / name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return found
