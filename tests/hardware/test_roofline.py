# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The bound is linear in what is asked of a chip, and says what it is that limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware.chips import CHIPS
from dreambooth_jax.hardware.roofline import bound

H100 = CHIPS["h100"]


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_a_second_of_each_is_a_second(chip):
    one = bound(chip, flops=chip.bfloat16, dtype="bfloat16", traffic=chip.bandwidth, moved=chip.link)
    assert (one.arithmetic, one.memory, one.links, one.seconds, one.utilisation) == (1, 1, 1, 1, 1)


@given(st.floats(0, 1e18), st.floats(0, 1e15), st.floats(0, 1e15), st.sampled_from(["bfloat16", "float32"]))
def test_the_bound_is_the_largest_and_named(flops, traffic, moved, dtype):
    it = bound(H100, flops=flops, dtype=dtype, traffic=traffic, moved=moved)
    assert it.seconds >= it.arithmetic
    assert it.seconds >= it.memory
    assert it.seconds >= it.links
    assert getattr(it, it.limit) == it.seconds
    assert 0 <= it.utilisation <= 1


def test_float32_takes_longer_on_gpus_and_not_on_tpus():
    for chip in CHIPS.values():
        half, full = (bound(chip, flops=1e12, dtype=dtype, traffic=0).arithmetic for dtype in ("bfloat16", "float32"))
        assert (full > half) == (chip.platform == "gpu" and chip.generation != "7.5")


def test_the_slower_way_between_hosts_counts():
    near = bound(H100, flops=0, dtype="bfloat16", traffic=0, moved=H100.link)
    far = bound(H100, flops=0, dtype="bfloat16", traffic=0, moved=H100.link, moved_between_hosts=2 * H100.network)
    assert (near.links, far.links) == (1, 2)
    faster = bound(H100, flops=0, dtype="bfloat16", traffic=0, moved_between_hosts=8, network=4)
    assert faster.links == 2


def test_an_unknown_network_is_asked_for():
    with pytest.raises(InputError, match="l4: nobody says how fast its hosts are connected; give network="):
        bound(CHIPS["l4"], flops=0, dtype="bfloat16", traffic=0, moved_between_hosts=1)


def test_nothing_takes_no_time():
    nothing = bound(H100, flops=0, dtype="bfloat16", traffic=0)
    assert nothing.seconds == nothing.utilisation == 0
