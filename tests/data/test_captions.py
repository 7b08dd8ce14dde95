# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What pictures are called from visit to visit: fixed lists of texts, drawn by names."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dreambooth_jax.data.captions import ONE_EACH, Captions, TextDraws, draws_of, listed
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.data.streams import Stream
from tests.data.test_mixture import assert_equal, table

TAGGED = Photo(name="a.png", prompt="sks dog, red,  collar , grass, sun", digest="ab", file=b"", has_caption=True)
PLAIN = Photo(name="b.png", prompt="a photo of sks dog", digest="cd", file=b"")


def test_orders_of_tags_keep_all_of_them_and_the_first_in_their_place():
    for keep in (0, 1, 2):
        texts = Captions(orders=30, keep=keep).texts(TAGGED)
        tags = [text.split(", ") for text in texts]
        assert len({tuple(one) for one in tags}) == len(texts) > 3
        for one in tags:
            assert one[:keep] == ["sks dog", "red"][:keep]
            assert sorted(one) == ["collar", "grass", "red", "sks dog", "sun"]


@pytest.mark.parametrize(("tags", "orders", "count"), [("a, b, c", 2, 2), ("a, b, c", 9, 2), ("a, b, c, d", 6, 6)])
def test_as_many_orders_as_are_asked_for_and_there_are(tags, orders, count):
    assert len(Captions(orders=orders).texts(replace(TAGGED, prompt=tags))) == count


def test_orders_depend_on_photo_and_seed_alone():
    three = Captions(orders=3)
    assert three.texts(TAGGED) == Captions(orders=3).texts(TAGGED) == Captions(orders=9).texts(TAGGED)[:3]
    assert three.texts(TAGGED) != replace(three, seed=1).texts(TAGGED)
    assert three.texts(TAGGED) != three.texts(replace(TAGGED, digest="ef"))


def test_without_orders_or_tags_a_caption_is_as_it_is_written():
    assert ONE_EACH.texts(TAGGED) == [TAGGED.prompt]
    assert Captions(orders=5).texts(replace(TAGGED, prompt="a,  b")) == ["a,  b"]
    assert Captions(orders=5, keep=9).texts(TAGGED) == [TAGGED.prompt]


def test_templates_are_for_pictures_without_a_caption():
    some = Captions(templates=("a sks dog", "my sks dog", "a sks dog"))
    assert some.texts(PLAIN) == ["a sks dog", "my sks dog"]
    assert some.texts(TAGGED) == [TAGGED.prompt]
    assert ONE_EACH.texts(PLAIN) == [PLAIN.prompt]


def stream(captions: Captions, photos: list[Photo], name: str = "instance") -> Stream:
    """Whose texts are their places in the list of all."""
    called = [captions.texts(photo) for photo in photos]
    all_texts = listed(called, captions)
    different = sorted(set(all_texts))
    index = np.array([different.index(text) for text in all_texts])
    plain = table(len(photos), texts=len(different))
    return Stream(
        name=name,
        table=replace(plain, draws=draws_of(called, index, dropout=captions.dropout, dropped=int(index[-1]))),
        rows=2,
    )


def called(captions: Captions, photos: list[Photo], steps: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """(photo, text) of each row, from the table's numbers."""
    mixture = Mixture(streams=[stream(captions, photos)], seed=seed)
    batches = [mixture.batch_at(step) for step in range(steps)]
    return [
        (int(mean), int(text))
        for batch in batches
        for mean, text in zip(batch["mean"][:, 0, 0, 0], batch["input_ids"][:, 0])
    ]


def test_each_text_of_each_picture_comes_about_equally_often():
    """Within five standard deviations."""
    some = Captions(templates=("0", "1", "2"), orders=4)
    counts = Counter(called(some, [PLAIN, TAGGED], 600))
    assert len(counts) == 3 + 4
    for (photo, _), count in counts.items():
        share = 1 / 3 if photo == 0 else 1 / 4
        assert abs(count - 600 * share) < 5 * np.sqrt(600 * share * (1 - share))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_drop_out_takes_its_share_of_all_visits(share):
    assert listed([["z"], ["z"]], Captions(dropout=share)) == ["z", "z", ""]
    rows = called(Captions(dropout=share), [PLAIN, replace(PLAIN, digest="x")], 500)
    dropped = sum(text == 0 for _, text in rows)  # the empty text is the first in order
    assert abs(dropped - 1000 * share) <= 5 * np.sqrt(1000 * share * (1 - share))
    assert {photo for photo, text in rows if text == 0} == {0, 1}


def test_drop_out_changes_texts_and_nothing_else():
    photos = [PLAIN, replace(PLAIN, digest="x")]
    with_, without = (Mixture(streams=[stream(Captions(dropout=d), photos)]) for d in (0.5, 0.0))
    for step in range(5):
        one, other = with_.batch_at(step), without.batch_at(step)
        for name in ("mean", "logvar", "weight", "is_prior", "index"):
            np.testing.assert_array_equal(one[name], other[name])


def test_draws_depend_on_seed_and_step_alone():
    """Whoever asks for whichever rows, in whatever order."""
    some = Captions(templates=("0", "1", "2"), dropout=0.3)
    mixture = Mixture(streams=[stream(some, [PLAIN, TAGGED])])
    whole = [mixture.batch_at(step) for step in range(8)]
    again = Mixture(streams=[stream(some, [PLAIN, TAGGED])])
    for step in (7, 3, 5):
        for row in (1, 0):
            part = {name: rows[row : row + 1] for name, rows in whole[step].items()}
            assert_equal(again.batch_at(step, slice(row, row + 1)), part)
    assert called(some, [PLAIN, TAGGED], 40) != called(some, [PLAIN, TAGGED], 40, seed=1)


def test_one_text_each_is_not_drawn():
    assert draws_of([["a"], ["b"]], np.array([0, 1]), dropout=0.0, dropped=1) is None
    draws = TextDraws(choices=np.array([[4], [5]]), counts=np.array([1, 1]))
    np.testing.assert_array_equal(draws.at(np.array([1, 0]), np.array([0, 1]), 0, "x"), [5, 4])
