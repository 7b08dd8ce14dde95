# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A1111's pictures of new words, drawn here by its rules in the plainest way."""

import base64
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file

from dreambooth_jax.cli import main
from dreambooth_jax.errors import InputError
from dreambooth_jax.weights import word_pictures
from dreambooth_jax.weights.checking import as_text, check_file
from dreambooth_jax.weights.embeddings import is_embedding, read_embeddings, vectors_for
from dreambooth_jax.weights.word_pictures import read_word_picture

R = np.random.default_rng(0)
VECTORS = R.normal(size=(2, 768)).astype(np.float32)
SIZE = (40, 96)
"""Width and height of the picture between the halves."""


def content(vectors=VECTORS, name="toy"):
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": {"TORCHTENSOR": vectors.tolist()}},
        "name": name,
        "step": 500,
        "sd_checkpoint": "cc6cb271",
        "sd_checkpoint_name": "v1-5",
    }


def text_of(said):
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(said).encode()).decode())
    return info


def numbers():
    """What halves are mixed with; A1111's own file lists 253, 242, 127, 44, 157, 27 as the first."""
    state = 0
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state % 255


def half_picture(halves, height):
    """Half bytes as a picture of this height, row by row; what is left over begins them again. Upper bits are set."""
    width = -(-len(halves) // (3 * height))
    drawn = numbers()
    rows = [
        [
            [(halves[(3 * (y * width + x) + c) % len(halves)] ^ (next(drawn) & 15)) | 0xA0 for c in range(3)]
            for x in range(width)
        ]
        for y in range(height)
    ]
    return Image.fromarray(np.array(rows, np.uint8))


def with_pixels(said, mode="RGB"):
    packed = zlib.compress(json.dumps(said).encode(), level=9)
    width, height = SIZE
    low, high = (
        half_picture([byte & 15 for byte in packed], height),
        half_picture([byte >> 4 for byte in packed], height),
    )
    middle = Image.fromarray(R.integers(1, 256, (height, width, 3)).astype(np.uint8))
    whole = Image.new("RGB", (low.width + width + high.width + 2, height), "black")
    for picture, left in ((low, 0), (middle, low.width + 1), (high, low.width + width + 2)):
        whole.paste(picture, (left, 0))
    return whole.convert(mode)


def test_the_numbers_are_those_of_a1111():
    drawn = numbers()
    assert [next(drawn) for _ in range(6)] == [253, 242, 127, 44, 157, 27]
    mixed = word_pictures._unmixed(np.zeros((5, 7, 3), np.uint8)).ravel()
    drawn = numbers()
    assert mixed.tolist() == [next(drawn) & 15 for _ in range(105)]


@pytest.mark.parametrize("where", ["text", "pixels", "pixels in a frame", "pixels with alpha"])
def test_a_word_is_read_to_the_bit_from_either_place(tmp_path, where):
    file = tmp_path / "shared.PNG"
    if where == "text":
        Image.new("RGB", SIZE, "red").save(file, pnginfo=text_of(content()))
    else:
        picture = with_pixels(content(), mode="RGBA" if "alpha" in where else "RGB")
        if "frame" in where:
            framed = Image.new("RGB", (picture.width + 6, picture.height + 4), "black")
            framed.paste(picture, (2, 3))
            picture = framed
        picture.save(file)
    assert is_embedding(file)
    (found,) = read_embeddings(file)
    assert found.word == "toy"
    np.testing.assert_array_equal(vectors_for(found, {"text_encoder": 768})["text_encoder"], VECTORS)


def test_the_text_counts_before_the_pixels_and_the_file_names_a_nameless_word(tmp_path):
    other = content(VECTORS[:1], name=None)
    with_pixels(content()).save(tmp_path / "charm.png", pnginfo=text_of(other))
    found = read_word_picture(tmp_path / "charm.png")
    assert found.word == "charm"
    np.testing.assert_array_equal(found.vectors, VECTORS[:1])


def test_check_and_export_take_it(tmp_path):
    with_pixels(content()).save(tmp_path / "a b.png")
    report = check_file(tmp_path / "a b.png")
    text = as_text(report)
    assert "a new word (textual inversion), in the form of a picture" in text
    assert report.base == "Stable Diffusion 1"
    assert report.facts["words"] == "'toy' of 2 vectors"
    (way_out,) = report.ways_out
    assert way_out == f"dreambooth-jax export '{tmp_path / 'a b.png'}' OUT.safetensors"
    assert main(["export", str(tmp_path / "a b.png"), str(tmp_path / "toy.safetensors")]) == 0
    (array,) = load_file(tmp_path / "toy.safetensors").values()
    np.testing.assert_array_equal(array, VECTORS)


def broken_text(text):
    info = PngInfo()
    info.add_text("sd-ti-embedding", text)
    return info


def packed(said):
    return broken_text(base64.b64encode(json.dumps(said).encode()).decode())


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "is a picture without a new word: it has neither a text sd-ti-embedding nor one in its pixels"),
        (broken_text("é?"), "sd-ti-embedding is not base64: take another copy"),
        (broken_text("bm8="), "is not valid JSON"),
        (packed({"string_to_param": {}}), "is not one string_to_param with a TORCHTENSOR"),
        (packed({"string_to_param": {"*": {"TORCHTENSOR": [[1], [1, 2]]}}}), "is no table of numbers"),
        (packed({"string_to_param": {"*": {"TORCHTENSOR": [["a"]]}}}), "is no table of numbers"),
        (packed({"string_to_param": {"*": {"TORCHTENSOR": [[[1]]]}}}), r"has shape \[1, 1, 1\], not that of vectors"),
        (packed({"string_to_param": {"*": {"TORCHTENSOR": [[float("nan")]]}}}), "has values that are not finite"),
        (packed(content(np.ones((76, 4)))), r"has shape \[76, 4\], not that of 1 to 75 vectors"),
    ],
)
def test_what_is_none_is_one_line(tmp_path, info, message):
    Image.fromarray(R.integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(tmp_path / "a.png")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "a.png") in str(caught.value)


def test_a_picture_that_was_scaled_has_no_word_any_more(tmp_path):
    picture = with_pixels(content())
    picture.resize((picture.width // 2, picture.height // 2)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="it may have been scaled or saved anew"):
        read_word_picture(tmp_path / "a.png")


def test_what_unpacks_to_more_than_any_word_has_is_refused(tmp_path, monkeypatch):
    with_pixels(content()).save(tmp_path / "a.png")
    monkeypatch.setattr(word_pictures, "LARGEST", 1000)
    with pytest.raises(InputError, match="is a picture without a new word"):
        read_word_picture(tmp_path / "a.png")
