# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Templates, sidecars and tables of captions."""

import json
import logging

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


CAPTIONS = {"a.png": "one, two", "sub/b.png": 'line\u2028break "quoted"', "c.png": None}


def _write(folder, kind, column="text"):
    if kind == "jsonl":
        rows = [{"file_name": name, column: text, "label": 3} for name, text in CAPTIONS.items()]
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"
    else:
        quoted = ('"' + (text or "").replace('"', '""') + '"' for text in CAPTIONS.values())
        text = f"\ufefffile_name,{column}\n" + "\n".join(map(",".join, zip(CAPTIONS, quoted)))
    (folder / f"metadata.{kind}").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_tables_of_captions(tmp_path, kind, column):
    _write(tmp_path, kind, column)
    assert prompts.read_metadata(tmp_path) == CAPTIONS


@pytest.mark.parametrize("name", ["metadata.jsonl", "Metadata.JSONL", "METADATA.CSV"])
def test_a_table_that_was_saved_on_windows(tmp_path, name):
    if name.lower().endswith("csv"):
        text = "file_name,text\r\nmore\\a.png,ein Hund\r\n"
    else:
        text = '{"file_name": "more\\\\a.png", "text": "ein Hund"}\r\n\r\n'
    (tmp_path / name).write_bytes(("\ufeff" + text).encode())
    assert prompts.read_metadata(tmp_path) == {"more/a.png": "ein Hund"}


@pytest.mark.parametrize(
    "name",
    [
        "../a.png",
        "/etc/a.png",
        "x/../../a.png",
        "..\\a.png",
        "C:\\a.png",
        "C:/a.png",
        "\\\\host\\a.png",
        "..",
        ".",
        "a\0.png",
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_table_may_not_name_files_outside_its_folder(tmp_path, name, kind):
    if kind == "csv" and "\0" in name:
        return
    folder = tmp_path / "photos"
    folder.mkdir()
    text = f"file_name\n{name}\n" if kind == "csv" else json.dumps({"file_name": name})
    (folder / f"metadata.{kind}").write_text(text)
    with pytest.raises(InputError, match=r"line \d: file_name .* is not in the folder"):
        prompts.read_metadata(folder)


def test_a_table_may_take_a_detour_inside_its_folder(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "./x/../a.png", "text": "t"}')
    assert prompts.read_metadata(tmp_path) == {"a.png": "t"}


def test_a_folder_without_a_table_has_no_captions(tmp_path):
    assert prompts.read_metadata(tmp_path) == {}


def test_a_table_without_captions_says_what_it_has(tmp_path, caplog):
    _write(tmp_path, "jsonl", "description")
    with caplog.at_level(logging.WARNING):
        assert set(prompts.read_metadata(tmp_path).values()) == {None}
    assert "no column text or caption" in caplog.text
    assert "description" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("metadata.jsonl", '{"file_name": "a.png"}\n{"file_name": ', r"metadata\.jsonl, line 2: not JSON"),
        ("metadata.jsonl", '{"text": "a"}', r"metadata\.jsonl, line 1: no file_name"),
        ("metadata.jsonl", '["a.png", "a"]', r"metadata\.jsonl, line 1: no file_name"),
        ("metadata.csv", "name,text\na.png,hello", r"metadata\.csv, line 2: no file_name"),
    ],
)
def test_a_wrong_table_names_the_line(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        prompts.read_metadata(tmp_path)
