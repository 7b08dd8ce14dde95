# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Measures against closed forms, and intervals against data whose mean is known."""

import numpy as np
import pytest

from dreambooth_jax.evaluation.bootstrap import estimate
from dreambooth_jax.evaluation.measures import between, drifted, over_pairs, paired

R = np.random.default_rng(0)


def test_the_same_direction_is_one_whatever_the_length():
    one = R.normal(size=(1, 7))
    ours, theirs = np.repeat(one, 3, 0) * [[1], [2], [30]], np.repeat(one, 5, 0)
    np.testing.assert_allclose(between(ours, theirs), 1, rtol=1e-14)
    np.testing.assert_allclose(paired(ours, ours), 1, rtol=1e-14)
    np.testing.assert_allclose(drifted(ours, ours), 0, atol=1e-14)


def test_orthogonal_features_are_zero_and_opposite_ones_drift_by_one():
    basis = np.linalg.qr(R.normal(size=(8, 8)))[0]
    np.testing.assert_allclose(between(basis[:3], basis[3:]), 0, atol=1e-14)
    np.testing.assert_allclose(drifted(basis[:4], basis[4:]), 0.5, atol=1e-14)
    np.testing.assert_allclose(drifted(basis, -basis), 1, rtol=1e-14)


def test_the_mean_over_pairs_is_what_it_says():
    ours, theirs = R.normal(size=(4, 6)), R.normal(size=(3, 6))
    cosines = [[a @ b / np.sqrt(a @ a * (b @ b)) for b in theirs] for a in ours]
    np.testing.assert_allclose(between(ours, theirs), np.mean(cosines, 1), rtol=1e-12)
    np.testing.assert_allclose(paired(ours[:3], theirs), np.diag(cosines), rtol=1e-12)


def test_the_order_of_photos_does_not_count_and_that_of_pictures_only_moves_them():
    ours, theirs = R.normal(size=(4, 6)), R.normal(size=(3, 6))
    found = between(ours, theirs)
    np.testing.assert_allclose(between(ours, theirs[[2, 0, 1]]), found, rtol=1e-12)
    np.testing.assert_array_equal(between(ours[[3, 1, 0, 2]], theirs), found[[3, 1, 0, 2]])


def test_a_distance_over_pairs_meets_each_pair_once():
    pairs = over_pairs(lambda x, y: x * 10 + y, np.arange(4.0))
    assert pairs.tolist() == [1, 2, 3, 12, 13, 23]


def test_what_does_not_vary_is_certain():
    assert estimate(np.full((3, 4), 0.5)) == (0.5, 0.5, 0.5, 12)
    assert estimate(np.full((1, 1), 0.5)) == (0.5, 0.5, 0.5, 1)


def test_missing_scores_are_no_scores():
    table = R.normal(size=(6, 5))
    wide = np.concatenate([table, np.full((6, 3), np.nan)], axis=1)
    assert estimate(wide).mean == table.mean()
    holes = np.where(R.random(table.shape) < 0.3, np.nan, table)
    found = estimate(holes)
    assert abs(found.mean - np.nanmean(holes)) < 1e-14
    assert found.low < found.mean < found.high


def test_one_subject_is_the_bootstrap_of_its_prompts():
    """Of n independent values the interval is that of the textbook: the mean ± 1.96 deviations / √n."""
    values = R.normal(size=(1, 400))
    found, half = estimate(values, draws=20_000), 1.96 * values.std() / 20
    np.testing.assert_allclose([found.low, found.high], [values.mean() - half, values.mean() + half], atol=0.05 * half)


@pytest.mark.parametrize("parts", [(1.0, 0.0, 0.2), (0.0, 1.0, 0.2), (0.7, 0.7, 0.7)])
def test_intervals_hold_the_truth_as_often_as_they_say(parts):
    """Scores are made of a subject's part, a prompt's and one of both; what 95 % intervals must hold is 0."""
    r, of_subjects, of_prompts, of_both = np.random.default_rng(1), *parts
    held = []
    for _ in range(300):
        scores = of_subjects * r.normal(size=(30, 1)) + of_prompts * r.normal(size=(1, 25))
        found = estimate(scores + of_both * r.normal(size=(30, 25)), draws=400)
        held.append(found.low < 0 < found.high)
    # percentile intervals of 25 to 30 units are a little short, those of crossed ones a little long
    assert 0.90 < np.mean(held) < 0.99


def test_pictures_of_one_subject_are_no_new_evidence():
    """Where scores differ by subject alone, more prompts make no interval shorter."""
    subjects = R.normal(size=(10, 1))
    few, many = (estimate(np.repeat(subjects, count, 1)) for count in (2, 50))
    np.testing.assert_allclose(few[:3], many[:3], rtol=0.1)
