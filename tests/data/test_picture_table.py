# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Tables of pictures: captions and weights."""

import json
import logging

import pytest

from dreambooth_jax.data.picture_table import read_metadata
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.photos import digest
from tests.data.pictures import noise

CAPTIONS = {"a.png": "one, two", "sub/b.png": 'line\u2028break "quoted"', "c.png": None}


def captions(folder):
    return {name: entry.caption for name, entry in read_metadata(folder).items()}


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
    assert captions(tmp_path) == CAPTIONS


@pytest.mark.parametrize("name", ["metadata.jsonl", "Metadata.JSONL", "METADATA.CSV"])
def test_a_table_that_was_saved_on_windows(tmp_path, name):
    if name.lower().endswith("csv"):
        text = "file_name,text\r\nmore\\a.png,ein Hund\r\n"
    else:
        text = '{"file_name": "more\\\\a.png", "text": "ein Hund"}\r\n\r\n'
    (tmp_path / name).write_bytes(("\ufeff" + text).encode())
    assert captions(tmp_path) == {"more/a.png": "ein Hund"}


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
        read_metadata(folder)


def test_a_table_may_take_a_detour_inside_its_folder(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "./x/../a.png", "text": "t"}')
    assert captions(tmp_path) == {"a.png": "t"}


def test_a_folder_without_a_table_has_no_captions(tmp_path):
    assert read_metadata(tmp_path) == {}


def test_a_table_without_captions_says_what_it_has(tmp_path, caplog):
    _write(tmp_path, "jsonl", "description")
    with caplog.at_level(logging.WARNING):
        assert set(captions(tmp_path).values()) == {None}
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
        read_metadata(tmp_path)


def _photos(folder, rows=()):
    """Two pictures and what a table says of them."""
    for name in ("a.png", "b.png"):
        noise(ord(name[0]), 32, 32).save(folder / name)
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return load_images(folder, prompt="x", subject=Subject(identifier="a", class_noun="b"))


def test_a_picture_has_the_weight_of_its_row_and_others_one(tmp_path, caplog):
    rows = ['{"file_name": "b.png", "weight": 0.25}']
    caplog.set_level(logging.INFO)
    assert [photo.weight for photo in _photos(tmp_path, rows)] == [1, 0.25]
    small, weights = caplog.messages  # a table without captions is nothing odd
    assert "smaller than 512 pixels" in small
    assert weights.endswith("1 of 2 pictures have weights, 0.25 to 0.25")
    assert [photo.prompt for photo in _photos(tmp_path, rows)] == ["x", "x"]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,weight\na.png,\nb.png,2e-1\n")
    assert {name: entry.weight for name, entry in read_metadata(tmp_path).items()} == {"a.png": 1, "b.png": 0.2}
    assert [one.weight for one in _photos(tmp_path, ['{"file_name": "a.png", "text": "y", "weight": null}'])] == [1, 1]


def test_another_weight_is_another_run_and_a_weight_of_one_the_same(tmp_path):
    one, two = (json.dumps({"file_name": "a.png", "weight": weight}) for weight in (1, 2))
    plain, same, other = (digest(_photos(tmp_path, rows)) for rows in ((), (one,), (two,)))
    assert plain == same != other


@pytest.mark.parametrize("weight", ["-1", "NaN", "Infinity", "1e9", '"much"', "true", "[1]", "{}"])
def test_a_weight_that_is_none_is_named_with_its_line(tmp_path, weight):
    rows = ['{"file_name": "a.png", "text": "t"}', f'{{"file_name": "b.png", "weight": {weight}}}']
    with pytest.raises(InputError, match=r"metadata\.jsonl, line 2: weight is .*: must be a number from 0 to 10000"):
        _photos(tmp_path, rows)


def test_pictures_that_all_weigh_nothing_are_refused(tmp_path):
    rows = [json.dumps({"file_name": name, "weight": 0}) for name in ("a.png", "b.png")]
    assert [photo.weight for photo in _photos(tmp_path, rows[:1])] == [0, 1]
    with pytest.raises(InputError, match="all pictures have weight 0"):
        _photos(tmp_path, rows)
