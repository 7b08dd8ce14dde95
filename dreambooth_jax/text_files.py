# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Text that people wrote with whatever editor they have, and text that is written for them."""

import codecs
import os
import re
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home

LARGEST = 64 * 2**20
"""Bytes of a file of text: prompts, captions, tables of captions."""
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: str | Path) -> str:
    """A file's text: UTF-8, with or without a mark at its beginning, or UTF-16 with one, as Windows saves it.

    Lines of the result end as on Linux.

    Raises:
        InputError: if it cannot be read, is no such text, or very large.
    """
    try:
        with at_home(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise InputError(f"{path} has more than {LARGEST} bytes: it is no text that was written by hand; split it")
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{path} is not text in UTF-8 (it has zero bytes): save it as UTF-8")
    return re.sub(r"\r\n?", "\n", text)


def read_lines(path: str | Path) -> list[str]:
    """Lines that hold more than blanks, without blanks around them; they end as on any system."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]  # splitlines knows more line ends


def write_text(path: str | Path, text: str) -> None:
    """Put text in the place of a file's, all of it or nothing, in UTF-8.

    Raises:
        InputError: if it cannot be written, as on a full disk.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
