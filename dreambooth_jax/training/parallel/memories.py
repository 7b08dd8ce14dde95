# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Arrays in the memory of their devices, or beside them in the host's, from where they come back fast.

Where an array lies does not change how it is split: each device has its own part in either memory.
"""

from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

_HOST = "pinned_host"


def on_host(tree: Any) -> Any:
    """Arrays in the host's memory."""
    return jax.tree.map(lambda leaf: _moved(leaf, _HOST), tree)


def on_devices(tree: Any) -> Any:
    """Arrays in their devices' memory; those that are there are not copied."""
    return jax.tree.map(lambda leaf: _moved(leaf, _home(leaf)), tree)


def _home(leaf: jax.Array) -> str:
    """What the memory is called that its devices compute in."""
    device: Any = next(iter(leaf.sharding.device_set))
    return device.default_memory().kind


def _moved(leaf: jax.Array, kind: str) -> jax.Array:
    if (leaf.sharding.memory_kind or _home(leaf)) == kind:
        return leaf
    # part by part, so that of arrays of several processes each moves its own
    parts = [
        jax.device_put(shard.data, SingleDeviceSharding(shard.device, memory_kind=kind))
        for shard in leaf.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding.with_memory_kind(kind), parts)
