# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from dreambooth_jax import memory
from dreambooth_jax.memory import Usage, bytes_per_device
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import make_mapper


@pytest.mark.parametrize(("parallel", "n"), [("pmap", 8), ("fsdp", 8), ("fsdp", 2), ("auto", 1)])
def test_bytes_of_shapes_are_those_of_arrays_and_of_their_parts(parallel, n):
    mapper = make_mapper(parallel, Target.of(jax.devices()[:n]))
    tree = {"large": jnp.zeros((64, 128)), "odd": jnp.zeros((75, 77)), "half": jnp.zeros((64, 128), jnp.bfloat16)}
    placed = mapper.place(tree)
    found = bytes_per_device(placed)
    assert found == bytes_per_device(mapper.shapes(tree))
    assert found == sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed))
    parts = n if parallel == "fsdp" else 1
    assert found == (64 * 128 * 4 + 64 * 128 * 2) // parts + 75 * 77 * 4


def test_usage_of_a_program():
    n = 4 * 64 * 64

    def program(kept, donated):
        square = kept @ kept
        return donated + 1, jnp.sin(square @ jnp.cos(square.T @ kept)).sum()  # two at least must be held at once

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    usage = Usage.of(jax.jit(program, donate_argnums=1).lower(shape, shape).compile())
    assert usage.arguments == 2 * n
    assert 0 < usage.results < 100, "only the sum has no memory yet"
    assert n <= usage.temporaries < 4 * n
    assert usage.peak == usage.arguments + usage.results + usage.temporaries


def test_an_accelerator_has_what_its_allocator_says():
    stats = {"bytes_limit": 1000, "bytes_in_use": 300}
    device = Mock(spec=jax.Device, platform="gpu", memory_stats=lambda: stats)
    assert (memory.capacity([device]), memory.used(device)) == (1000, 300)
    silent = Mock(spec=jax.Device, platform="tpu", memory_stats=lambda: None)
    assert memory.capacity([silent]) is None
    assert memory.used(silent) == 0


def test_pretended_devices_share_the_hosts_memory(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 8000)
    assert memory.capacity(jax.devices()) == 1000
    monkeypatch.setattr(memory, "host_memory", lambda: None)
    assert memory.capacity(jax.devices()) is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_a_containers_limit_counts_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    free = memory.host_memory()
    assert 0 < free < 2 * total
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.host_memory() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("123456\n")
    assert memory.host_memory() == 123456
