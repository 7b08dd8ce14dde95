# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The least time that a program can take on a chip, by what it computes, what it reads and writes, and what it sends.

    seconds >= max(operations / peak, traffic / bandwidth, moved / link, moved between hosts / network)

A bound and not a measurement: it supposes peaks that nothing reaches and that all four overlap perfectly. It is as
good as what it is given; where caches keep data from one kernel to the next, less traffic may do than is read off a
program.
"""

from dataclasses import dataclass

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware.chips import Chip


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Seconds that a program takes at the very least, for each reason; all of one device."""

    arithmetic: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The bound: the largest of the three."""
        return max(self.arithmetic, self.memory, self.links)

    @property
    def limit(self) -> str:
        """Which of them it is: ``arithmetic``, ``memory`` or ``links``."""
        return max(("arithmetic", "memory", "links"), key=lambda reason: getattr(self, reason))

    @property
    def utilisation(self) -> float:
        """The share of the arithmetic peak that this leaves within reach, from 0 to 1; 0 where nothing is computed."""
        return self.arithmetic / self.seconds if self.seconds else 0.0


def bound(
    chip: Chip,
    *,
    flops: int | float,
    dtype: str,
    traffic: int | float,
    moved: int | float = 0,
    moved_between_hosts: int | float = 0,
    network: int | float | None = None,
) -> Bound:
    """The least time of a program on one of the devices that run it.

    Args:
        chip: the device.
        flops: operations of products and convolutions of one device.
        dtype: what is multiplied: ``bfloat16``, ``float16`` or ``float32``.
        traffic: bytes from and to memory.
        moved: bytes that the device sends to others.
        moved_between_hosts: those of them that leave its host; for a TPU slice, whose links reach all hosts, none.
        network: bytes a second from a device to other hosts, where it is not the chip's usual one.
    """
    links = moved / chip.link
    if moved_between_hosts:
        network = network or chip.network
        if network is None:
            raise InputError(
                f"{chip.name}: nobody says how fast its hosts are connected; give network= in bytes a second"
            )
        links = max(links, moved_between_hosts / network)
    return Bound(arithmetic=flops / chip.peak(dtype), memory=traffic / chip.bandwidth, links=links)
