# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
from itertools import product

import numpy as np
import pytest
from scipy import stats

from dreambooth_jax.sweeps.effects import effects_of, half_width

PLACES = list(product(range(2), range(3), range(4)))


def test_effects_of_an_additive_score_are_exact():
    """Whatever the other settings do, their blocks cancel it."""
    own, other, seeds = [1.0, 1.5], [0, -7, 20], [0.1, 0.2, 0.3, 0.4]
    scores = {(i, j, k): own[i] + other[j] + seeds[k] for i, j, k in PLACES}
    first, second = effects_of(scores, axis=0, values=2)
    assert first.difference is None
    np.testing.assert_allclose([second.difference, second.difference_half_width], [0.5, 0], atol=1e-12)
    assert (second.blocks, second.count) == (12, 12)
    assert second.half_width > 1  # the mean alone is uncertain


def test_intervals_are_those_of_the_paired_t_test():
    r = np.random.default_rng(0)
    scores = {place: float(r.normal()) for place in PLACES}
    found = effects_of(scores, axis=1, values=3)
    a, b = ([scores[i, j, k] for i, k in product(range(2), range(4))] for j in (0, 2))
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    np.testing.assert_allclose(found[2].difference - found[2].difference_half_width, low)
    np.testing.assert_allclose(found[2].difference + found[2].difference_half_width, high)


def test_intervals_hold_the_truth_in_95_of_100():
    r = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        numbers = r.normal(3, 2, 5)
        held += abs(numbers.mean() - 3) <= half_width(list(numbers))
    assert 0.93 < held / 2000 < 0.97


def test_members_without_a_score_are_left_out_with_their_block():
    scores = {(0, 0): 1.0, (1, 0): 2.0, (1, 1): 90.0}
    first, second, third = effects_of(scores, axis=0, values=3)
    assert third is None
    assert (first.count, second.count, second.blocks, second.difference) == (1, 2, 1, 1.0)
    assert second.difference_half_width is None


@pytest.mark.parametrize("numbers", [[], [1.0]])
def test_one_number_has_no_interval(numbers):
    assert half_width(numbers) is None
