# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The mapper that a run asks for, and the batches that it can spread."""

from typing import Literal

import numpy as np
from jax.sharding import Mesh

from dreambooth_jax.errors import InputError
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel.mapper import Mapper
from dreambooth_jax.training.parallel.replicated import Replicated
from dreambooth_jax.training.parallel.sharded import Sharded


def make_mapper(parallel: Literal["auto", "pmap", "fsdp"], target: Target, *, fsdp_devices: int = 0) -> Mapper:
    """The mapper of a name. ``auto`` is pmap on several devices and plain jit on one.

    Args:
        parallel: ``auto``, ``pmap`` or ``fsdp``.
        target: the devices.
        fsdp_devices: neighbours that share one copy of the state; 0 is as many as a host has. Gathering parameters
            then stays on the links within a host, and only gradients travel between hosts.

    Raises:
        InputError: if ``fsdp_devices`` does not divide the devices.
    """
    if parallel == "pmap" or (parallel == "auto" and len(target.devices) > 1):
        return Replicated(target)
    shape = -1, neighbours(target, fsdp_devices)
    # Mesh() has Auto axes; jax.make_mesh would give Explicit ones, which vmap refuses.
    return Sharded(target, Mesh(np.asarray(target.devices).reshape(shape), ("data", "fsdp")))


def neighbours(target: Target, fsdp_devices: int) -> int:
    """How many devices share one copy of what is split.

    Args:
        target: the devices.
        fsdp_devices: so many; 0 is as many as a host has.

    Raises:
        InputError: if that does not divide the devices.
    """
    count = len(target.devices)
    group = fsdp_devices or count // target.hosts
    if count % group:
        raise InputError(f"train.fsdp_devices {group} does not divide the {count} devices")
    return group


def check_divisible(*, batch_size: int, copies: int, accumulation: int, n_devices: int) -> None:
    """Every micro-batch must put the same number of examples on every device.

    Args:
        batch_size: instance examples per step.
        copies: 2 with prior preservation (as many class examples come on top), else 1.
        accumulation: micro-batches per step.
        n_devices: devices.

    Raises:
        InputError: naming the next batch size that works.
    """
    parts = n_devices * accumulation
    if (batch_size * copies) % parts == 0:
        return
    unit = parts // int(np.gcd(parts, copies))
    fitting = -(-batch_size // unit) * unit
    raise InputError(
        f"train.batch_size {batch_size} gives {batch_size * copies} examples per step, which {n_devices} devices x "
        f"train.accumulation {accumulation} do not divide: use train.batch_size {fitting}"
    )
