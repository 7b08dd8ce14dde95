# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --embedding``, and what pictures say of it."""

import hashlib
import json
import logging

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.cli import main
from dreambooth_jax.metadata.infotext import read_infotext
from dreambooth_jax.metadata.ours import parameters_of
from dreambooth_jax.metadata.reading import read_ours
from dreambooth_jax.metadata.remake import WORDS
from dreambooth_jax.size import Size
from dreambooth_jax.weights.embeddings import write_embedding
from tests.runs import MODEL

VECTORS = {"text_encoder": 2 * np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)}
OPTIONS = ("steps=2", "height=16", "width=16", "num_images=1")


def sample(folder, *words):
    return main(["sample", str(MODEL), *words, *OPTIONS, f"out={folder}"])


@pytest.fixture
def file(tmp_path):
    write_embedding(tmp_path / "toy.safetensors", "x", VECTORS, form="a1111")
    return tmp_path / "toy.safetensors"


@pytest.mark.slow
def test_a_picture_says_which_words_it_has_and_is_made_again(tmp_path, file, caplog):
    one, again, other = (tmp_path / name for name in ("one", "again", "other"))
    write_embedding(tmp_path / "more.safetensors", "more", VECTORS)
    with caplog.at_level(logging.INFO):
        given = [f"--embedding={file}", "--embedding", f"unused={tmp_path / 'more.safetensors'}"]
        assert sample(one, "a (Toy:1.2) on the beach", "negative_prompt=a cat", *given) == 0
    assert f"new word 'toy', 2 vectors, of {file}" in caplog.text
    picture = one / "000-seed0.png"
    texts = Image.open(picture).text
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert read_infotext(texts["parameters"]).pairs["TI hashes"] == f"toy: {digits}"
    assert json.loads(texts["dreambooth_jax"])["embeddings"]["toy"] == digits
    caplog.clear()
    assert sample(again, f"--like={picture}", *given) == 0
    np.testing.assert_array_equal(Image.open(again / "000-seed0.png"), Image.open(picture))
    assert WORDS not in caplog.text
    assert sample(other, f"--like={picture}") == 0
    assert f"{WORDS}, toy, unused: give them with embedding=FILE" in caplog.text
    assert (np.asarray(Image.open(other / "000-seed0.png")) != np.asarray(Image.open(picture))).any()


def test_hashes_are_of_the_words_that_prompts_have():
    about = {"prompt": "a TOY, a b: c", "negative_prompt": "(bad:1.2)", "embeddings": {}}
    assert "TI hashes" not in parameters_of(about, Size(8, 8))
    about["embeddings"] = {"toy": "12ab", "bad": "34cd", "toys": "56ef", "at all": "78"}
    pairs = read_infotext(parameters_of(about | {"steps": 3, "seed": 1}, Size(8, 8))).pairs
    assert pairs["TI hashes"] == "toy: 12ab, bad: 34cd"


def test_pictures_of_a1111_say_it_too():
    from dreambooth_jax.metadata.a1111 import read_a1111

    text = (
        "a toy\nNegative prompt: easynegative\nSteps: 2, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 16x16, "
        'TI hashes: "easynegative: c74b4e810b03, easynegative: c74b4e810b03", Version: v1.9.0'
    )
    assert f"{WORDS}, easynegative: give them with embedding=FILE" in read_a1111(text).lacking
    about = {"prompt": "a", "seed": 1, "embeddings": {"a": "12"}}
    assert f"{WORDS}, a: give them with embedding=FILE" in read_ours(about).lacking
    assert not read_ours(about | {"embeddings": 3}).lacking


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("nothing.safetensors", "nothing.safetensors: no such file"),
        ("dog=nothing.safetensors", "nothing.safetensors: no such file"),
        ("{wide}", "have 768 numbers, those of this model 32: it was made for another (Stable Diffusion 1)"),
        ("a:b={file}", "'a:b' cannot be a new word"),
        ("{file}; toy={file}", "the word 'toy' has vectors already: choose another, as in WORD=FILE"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, file, capsys, told, message):
    wide = tmp_path / "wide.safetensors"
    write_embedding(wide, "x", {"text_encoder": np.ones((1, 768), np.float32)})
    assert sample(tmp_path / "out", "a dog", f"embedding={told.format(wide=wide, file=file)}") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax: ")]
    assert len(lines) == 1
    assert message in lines[0]
