# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of the batch: a pure function of the step in which every example and every view comes equally often."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.data import host_rng
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.streams import Stream, visit_order
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size

sizes = st.tuples(st.integers(1, 9), st.integers(1, 5))
seeds = st.integers(0, 2**63)
few = settings(max_examples=40, deadline=None)


def table(n: int, v: int = 1, *, texts: int = 1, offset: int = 0, size: tuple[int, int] = (2, 2)) -> ExampleTable:
    """Example i in view j has mean offset + i + j / 10, and the text that its number falls to."""
    mean = offset + np.arange(n)[:, None] + np.arange(v)[None] / 10
    mean = np.broadcast_to(mean.astype(np.float32)[..., None, None, None], (n, v, *size, 4))
    index = np.arange(n) % texts
    states = np.broadcast_to((offset + np.arange(texts, dtype=np.float32))[:, None, None], (texts, 77, 3))
    ids = np.broadcast_to(offset + np.arange(texts, dtype=np.int32)[:, None], (texts, 77))
    return ExampleTable(mean=mean, logvar=-mean, text={"text_states": states, "input_ids": ids}, text_index=index)


def make(n: int, batch_size: int, m: int | None = None, *, prior_weight: float = 1.0, seed: int = 0) -> Mixture:
    """n pictures of the subject, and m of the class where there are some."""
    streams = [Stream(name="instance", table=table(n, 3, texts=min(n, 2)), rows=batch_size)]
    if m is not None:
        prior = table(m, 2, texts=min(m, 3), offset=1000)
        streams.append(Stream(name="prior", table=prior, rows=batch_size, weight=prior_weight, is_prior=True))
    return Mixture(streams=streams, seed=seed)


def two_sizes(n: int, m: int, rows: int = 2, seed: int = 0) -> Mixture:
    """n pictures of one size and m of another."""
    streams = [
        Stream(name="square", table=table(n), rows=rows),
        Stream(name="wide", table=table(m, offset=500, size=Size(2, 3)), rows=rows),
    ]
    return Mixture(streams=streams, seed=seed)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@given(sizes, seeds, st.integers(0, 10**6))
@few
def test_every_epoch_is_a_permutation(size, seed, epoch):
    n, _ = size
    example, _ = visit_order(epoch * n + np.arange(n), counts=size, seed=seed, stream="instance")
    assert sorted(example) == list(range(n))


@given(sizes, seeds, st.integers(0, 10**5))
@few
def test_as_many_epochs_as_views_show_every_view_of_every_example_once(size, seed, round_):
    n, v = size
    example, view = visit_order(round_ * n * v + np.arange(n * v), counts=size, seed=seed, stream="instance")
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


def test_rows_have_the_weight_of_their_picture_times_that_of_their_stream():
    own = np.array([0.5, 0, 3, 1], np.float32)
    for weight in (1.0, 0.25):
        streams = [Stream(name="instance", table=replace(table(4), example_weights=own), rows=3, weight=weight)]
        for step in range(4):
            batch = Mixture(streams=streams).batch_at(step)
            np.testing.assert_array_equal(batch["weight"], weight * own[batch["mean"][:, 0, 0, 0].astype(int)])


def test_weights_of_one_are_no_weights_bit_for_bit():
    plain, ones = table(4), replace(table(4), example_weights=np.ones(4))
    for step in range(3):
        found = [
            Mixture(streams=[Stream(name="prior", table=one, rows=3, weight=0.3), *make(4, 3).streams]).batch_at(step)
            for one in (plain, ones)
        ]
        assert_equal(*found)


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
    data = Mixture(streams=[Stream(name="instance", table=table(1, 4), rows=8)])
    means = data.batch_at(0)["mean"][:, 0, 0, 0]
    np.testing.assert_allclose(sorted(means), np.repeat([0, 0.1, 0.2, 0.3], 2), atol=1e-6)


def test_without_a_class_stream_the_instance_rows_are_the_same():
    data = make(5, 2)
    batch = data.batch_at(3)
    assert data.rows == data.n_instances == len(batch["index"]) == 2
    assert not batch["is_prior"].any()
    assert (batch["weight"] == 1).all()
    assert_equal(batch, {name: value[:2] for name, value in make(5, 2, m=4).batch_at(3).items()})


def dreambooth_row(data: Mixture, step: int, row: int, seed: int) -> dict:
    """One row of an instance and a class stream, spelt out as runs of 0.1.0 have it: they must resume on the same."""
    instance, prior = data.streams
    stream = instance if row < instance.rows else prior
    n, v = stream.table.mean.shape[:2]
    place = step * instance.rows + row % instance.rows
    epoch = place // n
    example = host_rng.permutation(n, seed, stream.name, "examples", epoch)[place % n]
    view = host_rng.permutation(v, seed, stream.name, "views", int(example), epoch // v)[epoch % v]
    return {
        "mean": stream.table.mean[example, view],
        "logvar": stream.table.logvar[example, view],
        **{name: texts[stream.table.text_index[example]] for name, texts in stream.table.text.items()},
        "weight": np.float32(1.0 if stream is instance else prior.weight),
        "is_prior": np.bool_(stream is prior),
        "index": np.int32(row),
    }


@given(st.integers(1, 7), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6), seeds)
@few
def test_an_instance_and_a_class_stream_are_the_dreambooth_batch_of_earlier_runs(n, m, batch_size, step, seed):
    data = make(n, batch_size, m=m, prior_weight=0.3, seed=seed)
    assert [stream.name for stream in data.streams] == ["instance", "prior"]
    rows = [dreambooth_row(data, step, row, seed) for row in range(2 * batch_size)]
    assert_equal(data.batch_at(step), {name: np.stack([row[name] for row in rows]) for name in rows[0]})


def test_a_second_subject_is_one_more_stream():
    cat = Stream(name="cat", table=table(3, offset=2000), rows=1, weight=0.5)
    two = make(5, 2, m=4)
    three = Mixture(streams=[*two.streams, cat])
    assert (three.rows, three.n_instances) == (5, 3)
    for step in range(4):
        batch = three.batch_at(step)
        assert_equal({name: values[:4] for name, values in batch.items()}, two.batch_at(step))
        assert (batch["weight"][4], batch["is_prior"][4]) == (0.5, False)
        assert batch["mean"][4, 0, 0, 0] >= 2000


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000), seeds)
@few
def test_of_two_sizes_every_picture_is_seen_equally_often(n, m, rows, first, seed):
    """In so many steps as there are pictures, and from wherever that begins, give or take one visit at both ends."""
    data = two_sizes(n, m, rows, seed)
    assert data.sizes == (Size(2, 2), Size(2, 3))
    steps = range(first * (n + m), (first + 1) * (n + m))
    seen = Counter(int(mean) for step in steps for mean in data.batch_at(step)["mean"][:, 0, 0, 0])
    assert seen == Counter(dict.fromkeys([*range(n), *range(500, 500 + m)], rows))


def with_class_images(n: int, m: int, *, classes: int = 3, rows: int = 2, seed: int = 0) -> Mixture:
    """Pictures of two sizes, and class images of the first."""
    prior = Stream(name="prior", table=table(classes, offset=900), rows=rows, weight=0.5, is_prior=True)
    return Mixture(streams=[*two_sizes(n, m, rows).streams, prior], seed=seed)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), seeds)
@few
def test_class_images_of_another_size_are_a_part_of_their_own(n, m, rows, seed):
    """They are the same at every step, whatever the size of the instances; row numbers go on."""
    data = with_class_images(n, m, rows=rows, seed=seed)
    assert (data.rows, data.n_instances) == (2 * rows, rows)
    alone = Mixture(streams=[data.streams[2], Stream(name="x", table=table(1), rows=rows)], seed=seed)
    for step in range(n + m):
        batch = data.batch_at(step)
        if data.size_at(step) == Size(2, 2):
            assert batch["mean"].shape[0] == 2 * rows
            prior = {name: values[rows:] for name, values in batch.items()}
        else:
            instances, prior = batch
            assert not instances["is_prior"].any()
            assert (instances["mean"].shape[1:3], prior["mean"].shape[1:3]) == ((2, 3), (2, 2))
            np.testing.assert_array_equal(instances["index"], np.arange(rows))
        assert prior["is_prior"].all()
        np.testing.assert_array_equal(prior["index"], np.arange(rows, 2 * rows))
        np.testing.assert_array_equal(prior["mean"], alone.batch_at(step)["mean"][:rows])


def test_a_host_asks_for_its_rows_of_each_part():
    data = with_class_images(1, 1, rows=4)
    step = next(step for step in range(9) if data.size_at(step) == Size(2, 3))
    for part, own in zip(data.batch_at(step), data.batch_at(step, lambda count: slice(count // 2, count))):
        assert_equal(own, {name: values[2:] for name, values in part.items()})


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6), seeds)
@few
def test_the_size_depends_on_seed_and_step_alone(n, m, step, seed):
    data = two_sizes(n, m, seed=seed)
    size = two_sizes(n, m, seed=seed).size_at(step)
    for rows in (slice(None), slice(0, 1), slice(1, 2)):  # whoever asks for whichever rows
        assert data.batch_at(step, rows)["mean"].shape[1:3] == size


def test_sizes_come_in_another_order_in_another_round_and_for_another_seed():
    def order(seed: int, first: int) -> list[Size]:
        return [two_sizes(32, 32 + 1, seed=seed).size_at(step) for step in range(first, first + 65)]

    assert len({tuple(order(seed, first)) for seed in (0, 1) for first in (0, 65)}) == 4


def test_seed_epoch_and_stream_change_the_order():
    counter = np.arange(64)
    orders = [
        visit_order(counter + 64 * epoch, counts=(64, 1), seed=seed, stream=stream)[0].tolist()
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
        ({"rows": 0}, "stream dog: 0 rows"),
        ({"rows": 1, "weight": -1.0}, "weight -1.0"),
        ({"rows": 1, "weight": float("nan")}, "weight nan"),
        ({"rows": 1, "weight": 0.0}, "weight 0.0"),
    ],
)
def test_a_wrong_stream_is_named(options, complaint):
    with pytest.raises(InputError, match=complaint):
        Stream(name="dog", table=table(2), **options)


@pytest.mark.parametrize(
    ("streams", "complaint"),
    [
        ([], "needs an instance stream"),
        ([("a", Size(2, 2), 1, True)], "needs an instance stream"),
        ([("a", Size(2, 2), 1, False), ("a", Size(2, 2), 1, False)], "two streams are called 'a'"),
        ([("a", Size(2, 2), 1, False), ("b", Size(2, 3), 2, False)], "as many rows"),
        ([("a", Size(2, 2), 2, False), ("b", Size(2, 3), 1, False), ("c", Size(2, 3), 1, True)], "as many"),
    ],
)
def test_streams_that_do_not_mix_are_refused(streams, complaint):
    with pytest.raises(InputError, match=complaint):
        Mixture(
            streams=[
                Stream(name=name, table=table(2, size=size), rows=rows, is_prior=is_prior)
                for name, size, rows, is_prior in streams
            ]
        )


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
