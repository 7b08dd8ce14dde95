# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of aspect-ratio buckets: their sides, areas and limits, and where photos go."""

from collections import Counter
from dataclasses import replace
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.data.batches import Batches
from dreambooth_jax.data.buckets import bucket_sizes, nearest
from dreambooth_jax.errors import InputError
from dreambooth_jax.size import Size
from tests.data.test_mixture import table
from tests.data.test_turns import concept

few = settings(max_examples=60, deadline=None)
resolutions = st.sampled_from([Size(512, 512), Size(768, 768), Size(512, 768), Size(1024, 1024)])


@given(resolutions, st.integers(2, 15), st.sampled_from([32, 64, 128]), st.floats(1.7, 4))
@few
def test_shapes_are_few_static_and_of_the_area_of_the_resolution(size, count, step, longest):
    found = bucket_sizes(size, count=count, step=step, longest=longest)
    area = size.height * size.width
    assert size in found
    assert 1 < len(found) <= count
    assert len({width / height for height, width in found}) == len(found)
    assert list(found) == sorted(found, key=lambda one: one.width / one.height)
    for one in set(found) - {size}:
        assert one.height % step == one.width % step == 0
        assert max(one) <= longest * min(one)
        assert (
            one.height * one.width <= area < one.height * (one.width + step) or area < (one.height + step) * one.width
        )


@pytest.mark.parametrize("count", [3, 5, 7, 9])
def test_of_a_square_tall_and_wide_are_alike(count):
    found = bucket_sizes(Size(768, 768), count=count, step=64, longest=2.0)
    assert {Size(*one[::-1]) for one in found} == set(found)
    assert len(found) == count


def test_one_shape_is_the_resolution_whatever_the_step():
    assert bucket_sizes(Size(520, 1000), count=1, step=64, longest=2.0) == (Size(520, 1000),)


def test_a_grid_too_coarse_is_named():
    with pytest.raises(InputError, match=r"data.buckets is 3, but .*data.bucket_step=64.*besides 64: make one"):
        bucket_sizes(Size(64, 64), count=3, step=64, longest=2.0)


@given(st.integers(1, 4000), st.integers(1, 4000))
@settings(max_examples=25, deadline=None)
def test_a_photo_goes_where_least_of_it_is_cut_off(height, width):
    buckets = bucket_sizes(Size(512, 512), count=5, step=64, longest=2.0)

    def kept(bucket):
        scale = min(height / bucket.height, width / bucket.width)
        return scale**2 * bucket.height * bucket.width / (height * width)

    chosen = nearest(Size(height, width), buckets)
    assert kept(chosen) == pytest.approx(max(map(kept, buckets)))
    assert nearest(Size(7 * height, 7 * width), buckets) == chosen
    assert abs(log(chosen.width / chosen.height)) <= log(2)


def test_each_photo_comes_equally_often_in_whatever_bucket_it_is():
    """Of two subjects with three and four photos, in three sizes, both as often as the other."""
    sizes = [(2, 2), (2, 3), (3, 2)]
    dog = replace(concept("dog", 1, offset=0), instance=[table(1, offset=0), table(2, offset=10, size=sizes[1])])
    cat = replace(concept("cat", 1, offset=0), instance=[table(3, offset=1000), table(1, offset=1010, size=sizes[2])])
    mixture = Batches(rows=1, with_prior=True, seed=5).of([dog, cat])
    seen: Counter[int] = Counter()
    for step in range(240):
        batch = mixture.batch_at(step)
        instances = batch[0] if isinstance(batch, tuple) else batch
        seen[int(instances["mean"][0, 0, 0, 0])] += 1
    assert seen == {0: 40, 10: 40, 11: 40, 1000: 30, 1001: 30, 1002: 30, 1010: 30}
