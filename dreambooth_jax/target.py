# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The devices that programs are made for. Said once, where a run or a pipeline begins, and handed down from there.

Nothing else asks the machine: a program for eight H100s is made, compiled and measured on a laptop exactly as it is on
eight H100s (``hardware/described.py`` has devices that are not there).
"""

import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from dreambooth_jax import distributed, memory


class Arch(NamedTuple):
    """What decides which kernels a program may use.

    Attributes:
        platform: ``cpu``, ``gpu`` or ``tpu``.
        capability: CUDA's compute capability, such as (9, 0); (0, 0) on everything else.
    """

    platform: str
    capability: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, device: jax.Device) -> "Arch":
        """Of a device, real or described."""
        major, dot, minor = str(getattr(device, "compute_capability", "")).partition(".")
        known = bool(dot) and major.isdecimal() and minor.isdecimal()  # AMD's say gfx942
        return cls(device.platform, (int(major), int(minor)) if known else (0, 0))


CPU = Arch("cpu")
"""The arch of modules that nobody told theirs: their programs run anywhere."""


@dataclass(frozen=True)
class Target:
    """Devices of one kind.

    Attributes:
        devices: of all processes, a process's own side by side.
        memory: bytes of each that a program may take; None if nobody knows.
        process: which process this is, of those that the devices belong to.
        hosts: on how many machines they are; a machine may run several processes, as SLURM does with one for each GPU.
        described: the devices are not there: programs can be compiled for them, but not run.
    """

    devices: tuple[jax.Device, ...]
    memory: int | None = None
    process: int = 0
    hosts: int = 1
    described: bool = False

    @classmethod
    def of(cls, devices: Sequence[jax.Device], *, hosts: int | None = None, **rest: Any) -> "Target":
        """These devices, in order. ``hosts``: by default as many as processes."""
        ordered = tuple(sorted(devices, key=lambda device: (device.process_index, device.id)))
        processes = len({device.process_index for device in ordered})
        return cls(ordered, hosts=processes if hosts is None else hosts, **rest)

    @classmethod
    def here(cls) -> "Target":
        """All devices of all processes of this run. Processes call it together."""
        names = distributed.gather(np.uint32(zlib.crc32(socket.gethostname().encode())))
        local = memory.capacity(jax.local_devices())
        return cls.of(jax.devices(), memory=local, process=jax.process_index(), hosts=len(set(names.tolist())))

    @property
    def local(self) -> tuple[jax.Device, ...]:
        """Those of this process."""
        return tuple(device for device in self.devices if device.process_index == self.process)

    @property
    def arch(self) -> Arch:
        """Of each device."""
        return Arch.of(self.devices[0])

    @property
    def mesh(self) -> Mesh:
        """This process's devices in a row."""
        return Mesh(np.asarray(self.local), ("rows",))

    @property
    def dtype(self) -> DTypeLike:
        """What to compute in where nothing else is asked for."""
        return jnp.float32 if self.arch.platform == "cpu" else jnp.bfloat16
