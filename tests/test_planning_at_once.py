# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How many members are trained at once."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.planning.at_once import UNKNOWN, most_at_once

SIZES = st.integers(1, 10**11)


@given(st.integers(1, 300), SIZES, SIZES, SIZES)
def test_groups_are_as_few_as_there_is_room_for_and_of_one_size(wanted, shared, each, room):
    asked = []

    def peak(count):
        asked.append(count)
        return shared + count * each

    found = most_at_once(wanted, room=room, peak=peak)
    fitting = min((room - shared) // each, wanted)
    if fitting < 1:
        assert found == 0
        return
    groups = math.ceil(wanted / fitting)
    assert found == math.ceil(wanted / groups)
    assert len(asked) <= 3, "programs take minutes to compile"
    assert found in asked
    assert (len(asked) == 1) == (fitting == wanted)


@given(st.integers(1, 64), st.integers(1, 8), SIZES, SIZES, SIZES, st.randoms())
def test_what_is_chosen_was_compiled_and_fits_whatever_programs_need(wanted, devices, shared, each, room, chance):
    """More members never need less; else anything may be."""
    needs, last = {}, 0
    for count in range(1, wanted + 1):
        last = max(last, int((shared + math.ceil(count / devices) * each) * chance.uniform(0.7, 1.3)))
        needs[count] = last
    asked = set()

    def peak(count):
        asked.add(count)
        return needs[count]

    found = most_at_once(wanted, room=room, peak=peak)
    if found == 0:
        assert needs[1] > room
    else:
        assert needs[found] <= room
        assert found in asked


@given(st.integers(1, 300))
def test_where_nobody_knows_the_room_nothing_is_compiled(wanted):
    found = most_at_once(wanted, room=None, peak=lambda count: 1 // 0)
    assert found <= UNKNOWN
    assert math.ceil(wanted / found) == math.ceil(wanted / UNKNOWN)
