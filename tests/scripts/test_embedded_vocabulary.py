# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The small tokenizer: transformers reads it, and no word is foreign to it."""

import numpy as np
import pytest
from embedded import vocabulary

from dreambooth_jax.data.tokenizer import load_tokenizer

CAPTIONS = [f"a {style} {noun} on the grass" for style in ("3d", "flat") for noun in ("dog", "cat", "alien")] * 3
TEXTS = ["a 3d dog on the grass", "A  Photo, of it's sks dog!", "zwx olis", "ünï 12", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary.train(CAPTIONS, folder, size=600)
    return folder


def test_transformers_reads_what_we_wrote(folder):
    tokenizer = load_tokenizer(folder)
    np.testing.assert_array_equal(tokenizer(TEXTS), vocabulary.encode(TEXTS, folder))


def test_words_of_captions_are_whole_and_others_fall_into_letters(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pieces("a dog on grass") == ["a</w>", "dog</w>", "on</w>", "grass</w>"]
    assert tokenizer.pieces("sks") == ["s", "k", "s</w>"]


def test_the_vocabulary_is_no_larger_than_asked_for(folder, tmp_path):
    vocabulary.train(CAPTIONS, tmp_path, size=520)
    assert vocabulary.size(tmp_path) == 520
    assert 520 < vocabulary.size(folder) <= 600


def test_respelt_captions_have_the_same_letters(folder):
    tokenizer = load_tokenizer(folder)
    plain = vocabulary.encode(CAPTIONS, folder)
    respelt = vocabulary.encode(CAPTIONS, folder, respelt=2)
    np.testing.assert_array_equal(plain[1::2], respelt[1::2])
    assert (plain[0::2] != respelt[0::2]).any()
    for before, after in zip(plain, respelt):
        decode = tokenizer.backend.decode
        assert decode(before, skip_special_tokens=True) == decode(after, skip_special_tokens=True)
