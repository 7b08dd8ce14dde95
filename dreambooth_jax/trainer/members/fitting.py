# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many members fit into the devices' memory at once, and what is said of those that do not."""

import logging
from collections.abc import Sequence

import jax
import numpy as np

from dreambooth_jax import distributed
from dreambooth_jax.config import Config
from dreambooth_jax.errors import InputError
from dreambooth_jax.planning.admit import capacity
from dreambooth_jax.planning.advice import refusal
from dreambooth_jax.planning.at_once import most_at_once
from dreambooth_jax.planning.members import peak_of
from dreambooth_jax.planning.result import gb
from dreambooth_jax.prepare.prepared import Prepared
from dreambooth_jax.trainer.members.group import Group
from dreambooth_jax.training.parallel import Mapper

log = logging.getLogger(__name__)
MIB = 2**20


def members_that_fit(group: Group, configs: Sequence[Config], prepared: Sequence[Prepared], mapper: Mapper) -> int:
    """How many members of a group one program is to take at once: all, where they fit. Its steps are compiled.

    Args:
        group: all that share a program and begin together.
        configs: of its members.
        prepared: of its members.
        mapper: of the devices.

    Raises:
        InputError: if not even one fits.
    """
    count, room = len(group.names), _room(configs[0], mapper)
    if room is None and group.begun.is_restored:
        return count
    needs: dict[int, int] = {}

    def peak(number: int) -> int:
        needs[number] = group.peak() if number == count else peak_of(configs[:number], prepared[0].pipe, mapper)
        return needs[number]

    found = most_at_once(count, room=room, peak=peak)
    if not found:
        assert room is not None
        setup = group.members[0].training.setup
        raise InputError(refusal(configs[0], setup, f"{gb(needs[1])} GB for one member", room, activations=needs[1]))
    if found < count:
        of = "" if room is None else f" (a step of {found} needs {gb(needs[found])} of {gb(room)} GB on each device)"
        log.info("%d members take their steps at once%s: %d are %d groups", found, of, count, -(-count // found))
    return found


def _room(config: Config, mapper: Mapper) -> int | None:
    """Bytes of each device, of those of all processes that has the least."""
    own = capacity(config, mapper)
    if jax.process_count() == 1:
        return own
    least = int(distributed.gather(np.int32(-1 if own is None else own // MIB)).min())  # of at most 32 bits
    return None if least < 0 else least * MIB


def out_of_memory(error: Exception, config: Config, count: int) -> str:
    """What to do about an error of so many members, if their devices' memory was not enough; else empty."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return ""
    ways = [f"--at_once {count // 2}"] if count > 1 else []
    ways += ["train.remat=blocks"] if config.train.remat != "blocks" else []
    ways += [] if ways else ["a smaller adapter.rank or train.batch_size"]
    return f"{count} members at once ran out of the devices' memory: try {', or '.join(ways)}"
