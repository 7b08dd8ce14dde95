# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Words that a tokenizer is taught."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.data.added_words import split
from dreambooth_jax.data.tokenizer import load_tokenizer
from dreambooth_jax.errors import InputError
from tests.weights.folders import FIXTURES

V = 553
WORDS = {"sks": range(V, V + 3), "<cat-toy>": range(V + 3, V + 4), "sks two": range(V + 4, V + 6)}


@pytest.fixture(scope="module", params=["legacy_flax_sd15", "legacy_flax_sd21"])
def plain(request):
    return load_tokenizer(FIXTURES / request.param / "tokenizer")


@pytest.fixture(scope="module")
def taught(plain):
    return plain.with_words(WORDS)


@given(st.text(alphabet="sk <>caty-o2, \n"))
def test_the_pieces_are_the_text(text):
    pieces = list(split(text, WORDS))
    assert "".join(piece for _, piece, _ in pieces) == text
    assert all(text[at:].startswith(piece) for at, piece, _ in pieces)
    assert list(split(text, {})) == ([(0, text, None)] if text else [])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a photo of sks dog", ["sks"]),
        ("a photo of SKS, a dog", ["sks"]),
        ("sks's dog", ["sks"]),
        ("asks the task2 sks2 sks_x", []),
        ("a<cat-toy>,sks", ["<cat-toy>", "sks"]),
        ("sks sks\n two sks", ["sks", "sks two", "sks"]),
    ],
)
def test_a_word_counts_where_it_stands_by_itself(prompt, words, plain, taught):
    (found,) = taught.words([prompt])
    assert [i for i in found if i >= V] == [i for word in words for i in WORDS[word]]
    if not words:
        assert found == plain.words([prompt])[0]


def test_around_it_the_text_is_read_as_ever(plain, taught):
    before, after = plain.words(["a photo of", "dog, on the beach"])
    assert taught.words(["a photo of sks dog, on the beach"]) == [[*before, *WORDS["sks"], *after]]
    np.testing.assert_array_equal(taught(["a photo of a dog", ""]), plain(["a photo of a dog", ""]))
    ids = taught(["sks dog"])
    np.testing.assert_array_equal(ids[0, :6], [551, *WORDS["sks"], *plain.words(["dog"])[0], 552])
    assert ids.shape == (1, 77)
    assert ids.dtype == np.int32


def test_its_vectors_count_in_what_a_prompt_has_room_for(taught):
    prompt = "sks " * 24 + "dog dog <cat-toy> dog cat"  # 72 and 5
    assert taught.lost(prompt) == "dog cat"
    with pytest.warns(UserWarning, match="longer than 75 tokens.*'dog cat'"):
        ids = taught([prompt])
    assert ids[0, 75] == V + 3
    assert taught.lost("sks " * 25) == ""


def test_it_comes_before_what_the_vocabulary_has(plain, taught):
    assert max(plain.words(["sks"])[0]) < V
    assert taught.words(["sks"]) == [list(WORDS["sks"])]


@pytest.mark.parametrize("word", ["", "  ", "a,b", "(x)", "a:b", "x" * 201, "a\u200bb"])
def test_what_can_be_no_word_is_one_line(word, plain):
    with pytest.raises(InputError, match="cannot be a new word"):
        plain.with_words({word: range(V, V + 1)})


def test_a_word_that_is_there_is_one_line(taught):
    with pytest.raises(InputError, match="'SKS' has vectors already"):
        taught.with_words({"SKS": range(V + 6, V + 7)})
    with pytest.raises(InputError, match="'long' has 76 vectors: a prompt has room for 1 to 75"):
        taught.with_words({"long": range(76)})


def test_the_line_about_an_identifier(plain, taught):
    assert taught.report("sks") == "identifier 'sks' is a new word of 3 vectors"
    assert taught.report("zebra") == plain.report("zebra")
