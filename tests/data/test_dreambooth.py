# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of the batch: a pure function of the step in which every example and every view comes equally often."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.data import host_rng
from dreambooth_jax.data.dreambooth import DreamBoothData, ExampleTable, visit_order
from dreambooth_jax.errors import InputError

sizes = st.tuples(st.integers(1, 9), st.integers(1, 5))
seeds = st.integers(0, 2**63)
few = settings(max_examples=40, deadline=None)


def table(n: int, v: int = 1, *, texts: int = 1, offset: int = 0) -> ExampleTable:
    """Example i in view j has mean offset + i + j / 10, and the text that its number falls to."""
    mean = offset + np.arange(n)[:, None] + np.arange(v)[None] / 10
    mean = np.broadcast_to(mean.astype(np.float32)[..., None, None, None], (n, v, 2, 2, 4))
    index = np.arange(n) % texts
    states = np.broadcast_to((offset + np.arange(texts, dtype=np.float32))[:, None, None], (texts, 77, 3))
    ids = np.broadcast_to(offset + np.arange(texts, dtype=np.int32)[:, None], (texts, 77))
    return ExampleTable(mean=mean, logvar=-mean, text={"text_states": states, "input_ids": ids}, text_index=index)


def make(n: int, batch_size: int, m: int | None = None, **options) -> DreamBoothData:
    prior = None if m is None else table(m, 2, texts=min(m, 3), offset=1000)
    return DreamBoothData(instance=table(n, 3, texts=min(n, 2)), prior=prior, batch_size=batch_size, **options)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@given(sizes, seeds, st.integers(0, 10**6))
@few
def test_every_epoch_is_a_permutation(size, seed, epoch):
    n, _ = size
    example, _ = visit_order(epoch * n + np.arange(n), size=size, seed=seed, stream="instance")
    assert sorted(example) == list(range(n))


@given(sizes, seeds, st.integers(0, 10**5))
@few
def test_as_many_epochs_as_views_show_every_view_of_every_example_once(size, seed, round_):
    n, v = size
    example, view = visit_order(round_ * n * v + np.arange(n * v), size=size, seed=seed, stream="instance")
    assert sorted(zip(example, view)) == [(i, j) for i in range(n) for j in range(v)]


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 12), seeds)
@few
def test_examples_are_seen_equally_often_at_any_time(n, batch_size, steps, seed):
    data = make(n, batch_size, m=n + 1, seed=seed)
    batches = [data.batch_at(step) for step in range(steps)]
    for rows, stored in ((slice(batch_size), n), (slice(batch_size, None), n + 1)):
        seen = Counter(int(mean) for batch in batches for mean in batch["mean"][rows, 0, 0, 0])
        counts = [*seen.values(), *[0] * (stored - len(seen))]
        assert len(counts) == stored
        assert max(counts) - min(counts) <= 1


@given(st.integers(1, 7), st.integers(1, 6), st.integers(0, 500), st.data())
@few
def test_rows_of_a_batch_are_the_batchs_rows(n, batch_size, step, draw):
    data = make(n, batch_size, m=4, prior_weight=0.5)
    start = draw.draw(st.integers(0, data.rows - 1))
    rows = slice(start, draw.draw(st.integers(start + 1, data.rows)))
    assert_equal(data.batch_at(step, rows), {name: value[rows] for name, value in data.batch_at(step).items()})


def test_a_batch_depends_on_the_step_alone():
    """Not on the steps before it, so a resumed run goes on as if it had not stopped."""
    uninterrupted = make(5, 2, m=7)
    batches = [uninterrupted.batch_at(step) for step in range(12)]
    resumed = make(5, 2, m=7)
    for step in (11, 6, 7, 6):
        assert_equal(resumed.batch_at(step), batches[step])


def test_the_layout_of_a_batch():
    batch = make(5, 3, m=9, prior_weight=0.25).batch_at(4)
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "mean": ((6, 2, 2, 4), "float32"),
        "logvar": ((6, 2, 2, 4), "float32"),
        "text_states": ((6, 77, 3), "float32"),
        "input_ids": ((6, 77), "int32"),
        "weight": ((6,), "float32"),
        "is_prior": ((6,), "bool"),
        "index": ((6,), "int32"),
    }
    np.testing.assert_array_equal(batch["index"], np.arange(6))
    np.testing.assert_array_equal(batch["is_prior"], [False] * 3 + [True] * 3)
    np.testing.assert_array_equal(batch["weight"], [1, 1, 1, 0.25, 0.25, 0.25])
    np.testing.assert_array_equal(batch["mean"][..., 0, 0, 0] >= 1000, batch["is_prior"])
    np.testing.assert_array_equal(batch["logvar"], -batch["mean"])


def test_every_example_brings_its_text():
    batch = make(5, 5, m=5).batch_at(0)
    example = batch["mean"][:, 0, 0, 0].astype(int)
    expected = np.where(batch["is_prior"], 1000 + (example - 1000) % 3, example % 2)
    np.testing.assert_array_equal(batch["input_ids"][:, 0], expected)
    np.testing.assert_array_equal(batch["text_states"][:, 76, 2], expected)


def test_one_photo_fills_a_batch_of_eight():
    data = DreamBoothData(instance=table(1, 4), batch_size=8)
    means = data.batch_at(0)["mean"][:, 0, 0, 0]
    np.testing.assert_allclose(sorted(means), np.repeat([0, 0.1, 0.2, 0.3], 2), atol=1e-6)


@pytest.mark.parametrize("data", [make(5, 2), make(5, 2, m=4, prior_weight=0.0)])
def test_without_a_prior_term_there_are_no_class_rows(data):
    batch = data.batch_at(3)
    assert data.rows == len(batch["index"]) == 2
    assert not batch["is_prior"].any()
    assert (batch["weight"] == 1).all()
    assert_equal(batch, {name: value[:2] for name, value in make(5, 2, m=4).batch_at(3).items()})


def test_seed_epoch_and_stream_change_the_order():
    counter = np.arange(64)
    orders = [
        visit_order(counter + 64 * epoch, size=(64, 1), seed=seed, stream=stream)[0].tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
        for stream in ("instance", "prior")
    ]
    assert len(set(map(tuple, orders))) == len(orders)


def test_late_steps_do_not_overflow():
    assert make(5, 64, m=200).batch_at(2**31)["mean"].shape[0] == 128


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 1, "prior_weight": -1.0}, "prior weight -1.0"),
        ({"batch_size": 1, "prior_weight": float("nan")}, "prior weight nan"),
    ],
)
def test_wrong_settings_are_named(options, complaint):
    with pytest.raises(InputError, match=complaint):
        DreamBoothData(instance=table(2), **options)


@given(st.integers(1, 300), seeds, st.text(max_size=5))
@few
def test_named_numbers(n, seed, name):
    assert sorted(host_rng.permutation(n, seed, name)) == list(range(n))
    shares = host_rng.uniform(n, seed, name)
    assert shares.min() >= 0
    assert shares.max() < 1
    np.testing.assert_array_equal(
        host_rng.words(n, seed, name)[: n // 2], host_rng.words(max(n // 2, 1), seed, name)[: n // 2]
    )


def test_permutations_are_uniform():
    """All 6 orders of 3 things, 100 times each in 600 draws, give or take 5 standard deviations."""
    counts = Counter(tuple(host_rng.permutation(3, 0, "test", draw)) for draw in range(600))
    assert len(counts) == 6
    assert max(abs(count - 100) for count in counts.values()) < 46
