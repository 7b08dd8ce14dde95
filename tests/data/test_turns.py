# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of taking turns, and of several subjects that take turns in the rows of a batch."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.data.batches import Batches, ConceptTables, shares_of
from dreambooth_jax.data.streams import Stream, Turns
from dreambooth_jax.data.turns import LONGEST_ROUND, take_turns, whole_shares
from dreambooth_jax.errors import InputError
from tests.data.test_mixture import assert_equal, table

few = settings(max_examples=40, deadline=None)
shares_given = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(shares_given, st.integers(0, 10**6), st.integers(0, 99))
@few
def test_in_a_round_each_comes_as_often_as_its_share(shares, first, seed):
    total = sum(shares)
    who, _ = take_turns(first * total + np.arange(total), shares, seed, "test")
    assert Counter(who.tolist()) == dict(enumerate(shares))


@given(shares_given, st.integers(0, 99))
@few
def test_how_often_each_has_been_before_is_counted(shares, seed):
    who, before = take_turns(np.arange(3 * sum(shares) + 1), shares, seed, "test")
    seen: Counter[int] = Counter()
    for one, count in zip(who.tolist(), before.tolist()):
        assert count == seen[one]
        seen[one] += 1
    part = np.array([3, 1])
    assert [x[part].tolist() for x in (who, before)] == [x.tolist() for x in take_turns(part, shares, seed, "test")]


@given(st.lists(st.fractions(min_value=Fraction(1, 300), max_value=50), min_size=1, max_size=4))
@few
def test_shares_as_whole_numbers(shares):
    whole = whole_shares(shares)
    assert min(whole) >= 1
    assert sum(whole) <= LONGEST_ROUND + len(shares)
    for one, share in zip(whole, shares):
        assert abs(one / sum(whole) - float(share / sum(shares))) <= 2 * len(shares) / LONGEST_ROUND
    assert whole_shares([Fraction(3, 7), Fraction(1, 2)]) == (6, 7)


def concept(name: str, n: int, *, offset: int, classes: int = 3, **options) -> ConceptTables:
    """Its pictures count from the offset, those of its class from the offset and a hundred."""
    prior = table(classes, offset=offset + 100)
    return ConceptTables(name=name, instance=[table(n, offset=offset)], prior=prior, **{"prior_weight": 1.0} | options)


def seen(mixture, steps: int) -> list[dict]:
    return [mixture.batch_at(step) for step in range(steps)]


def subject(batch: dict) -> np.ndarray:
    """Whose picture each row is: 0 or 1, by its mean."""
    return (batch["mean"][:, 0, 0, 0] // 1000).astype(int)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 50))
@few
def test_subjects_are_shown_equally_often_however_many_photos_they_have(rows, n, m, seed):
    concepts = [concept("dog", n, offset=0), concept("cat", m, offset=1000)]
    batches = seen(Batches(rows=rows, with_prior=True, seed=seed).of(concepts), 2 * n * m)
    counts = Counter(int(one) for batch in batches for one in batch["mean"][:rows, 0, 0, 0])
    of_dog = sum(count for one, count in counts.items() if one < 1000)
    assert of_dog == rows * n * m
    assert {one for one in counts} == {*range(n), *range(1000, 1000 + m)}
    for group, size in ((range(n), n), (range(1000, 1000 + m), m)):
        assert {counts[one] for one in group} == {rows * n * m // size}


def test_by_repeats_each_photo_comes_as_often_as_they_say():
    concepts = [concept("dog", 5, offset=0, repeats=3), concept("cat", 2, offset=1000, repeats=10)]
    batches = seen(Batches(rows=1, with_prior=True, seed=3).of(concepts), 35)
    counts = Counter(int(batch["mean"][0, 0, 0, 0]) for batch in batches)
    assert counts == dict.fromkeys(range(5), 3) | {1000: 10, 1001: 10}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_each_brings_a_picture_of_its_own_class_with_its_own_weight(rows):
    concepts = [concept("dog", 5, offset=0, prior_weight=0.5), concept("cat", 2, offset=1000, prior_weight=2.0)]
    for batch in seen(Batches(rows=rows, with_prior=True, seed=1).of(concepts), 12):
        whose = subject(batch)
        np.testing.assert_array_equal(whose[:rows], whose[rows:])
        np.testing.assert_array_equal(batch["concept"], whose)
        np.testing.assert_array_equal(batch["is_prior"], [False] * rows + [True] * rows)
        np.testing.assert_array_equal(batch["weight"], np.where(batch["is_prior"], np.array([0.5, 2.0])[whose], 1))


def test_a_subjects_own_pictures_weigh_what_it_says():
    """Its class images keep their λ."""
    options = {"dog": {"instance_weight": 2.0, "prior_weight": 0.5}, "cat": {}}
    concepts = [concept(name, 2, offset=1000 * i, **options[name]) for i, name in enumerate(options)]
    for batch in seen(Batches(rows=2, with_prior=True, seed=1).of(concepts), 4):
        of_dog = np.where(batch["is_prior"], 0.5, 2.0)
        np.testing.assert_array_equal(batch["weight"], np.where(subject(batch) == 0, of_dog, 1.0))


def test_class_images_weigh_what_they_should_where_another_subject_has_none():
    """Over an epoch: lambda for each instance example of the subject that has them."""
    concepts = [concept("dog", 4, offset=0, prior_weight=0.6), concept("cat", 2, offset=1000, prior_weight=0.0)]
    batches = seen(Batches(rows=2, with_prior=True, seed=1).of(concepts), 8)
    weight = sum(batch["weight"][batch["is_prior"]].sum() for batch in batches)
    dogs = sum(int((subject(batch)[~batch["is_prior"]] == 0).sum()) for batch in batches)
    assert weight == pytest.approx(0.6 * dogs)


def test_rows_of_a_batch_of_subjects_are_the_batchs_rows():
    concepts = [concept("dog", 5, offset=0), concept("cat", 2, offset=1000), concept("cup", 1, offset=2000)]
    mixture = Batches(rows=3, with_prior=True, seed=1).of(concepts)
    for step in (0, 5, 1000):
        whole = mixture.batch_at(step)
        for start in range(6):
            assert_equal(
                mixture.batch_at(step, slice(start, start + 1)), {k: v[start : start + 1] for k, v in whole.items()}
            )


def test_one_subject_is_the_streams_of_earlier_runs():
    mixture = Batches(rows=2, with_prior=True, seed=0).of([concept("", 5, offset=0, prior_weight=0.3)])
    assert [(one.name, one.weight, one.rows) for one in mixture.streams] == [("instance", 1.0, 2), ("prior", 0.3, 2)]
    assert "concept" not in mixture.batch_at(0)
    assert len(Batches(rows=2, with_prior=False, seed=0).of([concept("", 5, offset=0)]).streams) == 1


def test_repeats_are_said_of_all_or_none():
    with pytest.raises(InputError, match="repeats are said of some concepts only"):
        shares_of([3, 4], [2, None])


def test_streams_of_two_sizes_do_not_take_turns():
    streams = [Stream(name=str(size), table=table(2, size=size), rows=1) for size in ((2, 2), (2, 3))]
    with pytest.raises(InputError, match="must have one size"):
        Turns(order="x", streams=streams, shares=(1, 1), rows=1)
