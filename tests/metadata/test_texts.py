# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Texts in pictures of any kind, and files of strangers."""

import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from dreambooth_jax.data.png import save_png
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.texts import LONGEST, read_texts
from tests.metadata.files import png, with_chunk

TEXT = "a dog\nSteps: 2, Sampler: Euler, Seed: 1"


@pytest.mark.parametrize("text", [TEXT, "é " + TEXT, "😀 " + TEXT])
@pytest.mark.parametrize("chunk", ["tEXt", "zTXt", "iTXt"])
def test_texts_of_a_png(tmp_path, text, chunk):
    if chunk == "zTXt" and "😀" in text:
        chunk = "iTXt"
    assert read_texts(png(tmp_path / "a.png", {"parameters": text, "other": "x"}, chunk=chunk)) == {
        "parameters": text,
        "other": "x",
    }


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
def test_comments_of_other_files(tmp_path, format, encoding):
    """EXIF's UserComment, in either order of bytes; a PNG of A1111 has chunks instead."""
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + ("😀 " + TEXT).encode(encoding)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format=format, exif=exif)
    assert read_texts(path) == ({} if format == "PNG" else {"parameters": "😀 " + TEXT})


def test_our_own_texts_are_latin_1_where_that_holds_them(tmp_path):
    for prompt, kind in (("a café", b"tEXt"), ("a 犬", b"iTXt")):
        path = tmp_path / "a.png"
        save_png(path, np.zeros((8, 8, 3), np.uint8), {"prompt": prompt, "seed": 1, "steps": 2, "sampler": "ddim"})
        assert kind + b"parameters\0" in path.read_bytes()
        assert b"tEXtdreambooth_jax\0" in path.read_bytes()
        assert read_texts(path)["parameters"].startswith(prompt)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_unpacks_to_gigabytes(tmp_path, kind):
    bomb = zlib.compress(b"\0" * 2**28, 9)
    content = b"parameters\0\0" + bomb if kind == b"zTXt" else b"parameters\0\1\0\0\0" + bomb
    path = with_chunk(tmp_path / "a.png", kind, content)
    tracemalloc.start()
    with pytest.raises(InputError, match=f"has a text of more than {LONGEST} bytes inside"):
        read_texts(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * LONGEST
    tracemalloc.stop()


def test_a_chunk_that_is_longer_than_its_file(tmp_path):
    path = png(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:33] + b"\x7f\xff\xff\xfftEXtparameters\0")
    with pytest.raises(InputError, match="has a text of more than"):
        read_texts(path)
    path.write_bytes(path.read_bytes()[:33] + b"\x00\x00\xff\xfftEXtparameters\0abc")
    assert read_texts(path) == {"parameters": "abc"}


def test_more_texts_and_chunks_than_there_are(tmp_path):
    path = png(tmp_path / "a.png", {f"key{i}": "x" for i in range(100)})
    with pytest.raises(InputError, match="more than 64 texts"):
        read_texts(path)
    empty = b"\0\0\0\0abcd\0\0\0\0"
    path.write_bytes(path.read_bytes()[:33] + empty * 100_001)
    with pytest.raises(InputError, match="more than 100000 chunks"):
        read_texts(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1\x00\x10Exif\0\0MM\0*"])
def test_no_pictures(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    if content.startswith(b"\x89PNG"):
        assert read_texts(path) == {}
        return
    with pytest.raises(InputError, match=r"a\.png cannot be read: it is no picture"):
        read_texts(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_texts(tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_texts(tmp_path)
