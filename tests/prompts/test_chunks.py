# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts of any length in chunks of 75 tokens."""

from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.data.tokenizer import load_tokenizer
from dreambooth_jax.prompts.chunks import fill, pad_chunks, read_chunks
from tests.prompts.a1111 import cuts

FIXTURES = Path(__file__).parents[1] / "fixtures"
COMMA = 7


@pytest.fixture(scope="module", params=["legacy_flax_sd15", "legacy_flax_sd21"])
def tokenizer(request):
    return load_tokenizer(FIXTURES / request.param / "tokenizer")


def filled(ids, **options):
    return [[token for token, _ in chunk] for chunk in fill([[(i, 1.0) for i in ids]], comma=COMMA, **options)]


@given(st.lists(st.sampled_from([1, 2, 3, COMMA]), max_size=120), st.integers(2, 30), st.integers(0, 12))
def test_chunks_are_cut_where_the_rule_says(ids, room, back_off):
    chunks = filled(ids, room=room, back_off=back_off)
    assert list(chain(*chunks)) == ids
    assert all(len(chunk) <= room for chunk in chunks)
    ends = np.cumsum([len(chunk) for chunk in chunks])[:-1].tolist()
    assert ends == cuts(ids, COMMA, room, back_off)
    for chunk, following in pairwise(chunks):
        assert len(chunk) == room or (chunk[-1] == COMMA and len(chunk) > room - back_off and following[0] != COMMA)


@pytest.mark.parametrize(
    ("place", "length"), [(0, 75), (54, 75), (55, 56), (60, 61), (73, 74), (74, 75), (75, 75)], ids=str
)
def test_a_comma_among_the_last_20_ends_a_chunk(place, length):
    ids = [1] * 100
    ids[place] = COMMA
    assert [len(chunk) for chunk in filled(ids, room=75)] == [length, 100 - length]


@given(st.lists(st.sampled_from([1, 2, COMMA, 100]), max_size=80), st.integers(5, 30), st.integers(0, 12))
def test_vectors_of_a_word_are_in_one_chunk(ids, room, back_off):
    """A word of five vectors, 100 to 104, as A1111 places it: it begins a chunk where the rest of one is too short."""
    flat = [i for one in ids for i in (range(100, 105) if one == 100 else [one])]
    chunks = filled(flat, room=room, back_off=back_off, together={100: 5})
    assert list(chain(*chunks)) == flat
    assert all(0 < len(chunk) <= room for chunk in chunks[1:])
    for chunk in chunks:
        places = [i for i, token in enumerate(chunk) if token == 100]
        assert all(chunk[i : i + 5] == list(range(100, 105)) for i in places)
        assert sum(token >= 100 for token in chunk) == 5 * len(places)
    for chunk, following in pairwise(chunks):
        no_room = following[0] == 100 and len(chunk) + 5 > room
        assert no_room or len(chunk) == room or (chunk[-1] == COMMA and len(chunk) > room - back_off)


def test_a_word_in_brackets_has_one_weight_and_is_counted(tokenizer):
    taught = tokenizer.with_words({"sks": range(553, 557)})
    ids, weights = read_chunks("dog " * 72 + "(sks:1.3), a dog", taught)
    assert ids.shape == (2, 77)
    assert ids[1, 1:5].tolist() == [553, 554, 555, 556]
    np.testing.assert_array_equal(weights[1, 1:5], 1.3)
    assert (weights[0] == 1).all()
    assert (weights[1, 5:] == 1).all()


def test_sections_have_chunks_of_their_own():
    tokens = [[(1, 1.0)] * n for n in (3, 0, 80, 75, 0)]
    assert [len(chunk) for chunk in fill(tokens, room=75, comma=COMMA)] == [3, 0, 75, 5, 75]
    assert list(fill([[]], room=75, comma=None)) == [[]]


@pytest.mark.parametrize("prompt", ["", "a photo of sks dog", "a, b, c", "dog " * 75, "Größe, 漢字 \u00a0 x\ty"])
def test_a_plain_prompt_is_what_it_is_without_syntax(prompt, tokenizer):
    ids, weights = read_chunks(prompt, tokenizer)
    np.testing.assert_array_equal(ids, tokenizer([prompt]))
    assert (weights == 1).all()


def test_weights_are_those_of_tokens(tokenizer):
    prompt = "a [photo] of (sks:1.5) dog"
    ids, weights = read_chunks(prompt, tokenizer)
    np.testing.assert_array_equal(ids, tokenizer(["a photo of sks dog"]))
    words = [("a", 1), ("photo", 1 / 1.1), ("of", 1), ("sks", 1.5), ("dog", 1)]
    expected = [1, *(weight for word, weight in words for _ in tokenizer.words([word])[0])]
    np.testing.assert_allclose(weights[0], expected + [1] * (77 - len(expected)), rtol=1e-7)


def test_long_prompts_are_padded_with_what_the_model_was_trained_with(tokenizer):
    """<|endoftext|> for Stable Diffusion 1, id 0 for 2: after the first <|endoftext|>."""
    ids, _ = read_chunks("dog " * 80, tokenizer)
    backend = tokenizer.backend
    pad = {"legacy_flax_sd15": backend.eos_token_id, "legacy_flax_sd21": 0}[tokenizer.folder.parent.name]
    assert ids.shape == (2, 77)
    assert (ids[:, 0] == backend.bos_token_id).all()
    assert ids[0, 76] == ids[1, 6] == backend.eos_token_id
    assert (ids[1, 7:] == pad).all()
    assert len(set(ids[0, 1:76]) | set(ids[1, 1:6])) == 1


def test_missing_chunks_are_those_of_the_empty_prompt(tokenizer):
    ids, weights = pad_chunks(read_chunks("a (dog)", tokenizer), 3, tokenizer)
    np.testing.assert_array_equal(ids, tokenizer(["a dog", "", ""]))
    assert (weights[1:] == 1).all()
    assert weights.shape == (3, 77)


def test_break_ends_a_chunk(tokenizer):
    ids, _ = read_chunks("a cat BREAK a dog", tokenizer)
    np.testing.assert_array_equal(ids, tokenizer(["a cat", "a dog"]))
