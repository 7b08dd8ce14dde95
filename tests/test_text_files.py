# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.text_files import read_lines, read_text

TEXT = "a dog 😀\u2028über\n\n  a cat\x0b  \n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_editors_text_is_the_same_lines(tmp_path, encoding, end):
    path = tmp_path / "prompts.txt"
    path.write_bytes(TEXT.replace("\n", end).encode(encoding))
    assert read_lines(path) == ["a dog 😀\u2028über", "a cat"]
    assert read_text(path) == TEXT


def test_utf16_of_the_other_end_too(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(path) == TEXT


@pytest.mark.parametrize("content", ["über".encode("latin-1"), TEXT.encode("utf-16-le"), b"\x89PNG\r\n\x1a\n\0\0"])
def test_what_is_no_text_is_one_line(tmp_path, content):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"prompts.txt is not text in UTF-8 .*: save it as UTF-8$"):
        read_text(path)


@pytest.mark.parametrize("name", ["nowhere.txt", "."])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path / name)
