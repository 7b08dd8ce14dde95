# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Templates and sidecars."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.data import prompts
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError

DOG = Subject(identifier="sks", class_noun="dog")


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("a photo of {identifier} {class_noun}", "a photo of sks dog"),
        ("{class_noun}, {class_noun}", "dog, dog"),
        ("a  cat\n on\ta mat ", "a cat on a mat"),
        ("", ""),
        ("a lone { brace", "a lone { brace"),
        ("a photo of {{sks}} {class_noun}", "a photo of {sks} dog"),
        ("{{{identifier}}}", "{sks}"),
        ("{{identifier}}", "{identifier}"),
    ],
)
def test_fields_are_filled_in(template, filled):
    assert DOG.fill(template) == filled


def test_an_empty_noun_leaves_no_gap():
    assert Subject(identifier="sks", class_noun="").fill("a photo of {identifier} {class_noun} outside") == (
        "a photo of sks outside"
    )


@pytest.mark.parametrize(
    ("template", "nearest"),
    [
        ("{identifer} dog", "{identifier}"),
        ("a {class}", "{class_noun}"),
        ("a {Class_Noun}", "{class_noun}"),
        ("{identifier.__class__}", "{identifier}"),
        ("{}", "{"),
    ],
)
def test_an_unknown_field_names_the_nearest(template, nearest):
    with pytest.raises(InputError, match="unknown field") as caught:
        DOG.fill(template)
    assert template in str(caught.value)
    assert f"did you mean {nearest}" in str(caught.value)
    assert "{{ and }}" in str(caught.value)


@given(st.text())
def test_any_text_can_be_written_with_doubled_braces(text):
    assert DOG.fill(text.replace("{", "{{").replace("}", "}}")) == " ".join(text.split())


@given(st.text(st.characters(exclude_characters="{}")), st.text(st.characters(exclude_characters="{}")))
def test_filling_is_idempotent_and_keeps_every_word(before, after):
    filled = DOG.fill(before + " {identifier} " + after)
    assert filled.split() == [*before.split(), "sks", *after.split()]
    assert DOG.fill(filled) == filled


def test_sidecars(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffein Hund, größer \n".encode())
    (tmp_path / "b.txt").write_text("  \n")
    (tmp_path / "c.txt").write_bytes("größer".encode("latin-1"))
    assert prompts.read_sidecar(tmp_path / "a.jpg") == "ein Hund, größer"
    assert prompts.read_sidecar(tmp_path / "b.jpg") is None
    assert prompts.read_sidecar(tmp_path / "none.jpg") is None
    with pytest.raises(InputError, match=r"c\.txt is not text in UTF-8"):
        prompts.read_sidecar(tmp_path / "c.jpg")


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.Txt"])
def test_a_sidecar_may_be_written_in_capitals_and_on_windows(tmp_path, name):
    (tmp_path / name).write_bytes("\ufeffa {identifier}\r\nin snow\r\n".encode())
    assert DOG.fill(prompts.read_sidecar(tmp_path / "a.JPG")) == "a sks in snow"
    (tmp_path / name).write_bytes("a {identifier}\r\nin snow\r\n".encode("utf-16"))
    assert DOG.fill(prompts.read_sidecar(tmp_path / "a.JPG")) == "a sks in snow"
