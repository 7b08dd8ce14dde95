# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody says of each photo: texts that are sent with them, called as they are (``A.jpg`` and ``A.txt``)."""

from collections.abc import Sequence
from pathlib import Path

from dreambooth_jax.app.requests.text import check_text
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError

LONGEST = 2000
"""Bytes of a caption; text encoders read 77 tokens."""


def apart(sent: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """(photos, captions) of what was sent, each in its order."""
    files = [Path(file) for file in sent]
    return [file for file in files if not _is_text(file)], [file for file in files if _is_text(file)]


def captions(sent: Sequence[str | Path], subject: Subject) -> list[str]:
    """Of each photo its caption, and empty where it has none.

    Args:
        sent: photos and texts, where the server has put them.
        subject: whose words captions may ask for in braces.

    Raises:
        InputError: if there is no photo of a text's name, or it is too long, no text, or asks for what is not there.
    """
    photos, texts = apart(sent)
    if len(texts) > len(photos):
        raise InputError(f"captions: there are {len(texts)} of {len(photos)} photos; send one for each, or none")
    said: dict[str, str] = {}
    for number, file in enumerate(texts, 1):
        name = f"caption {number}"
        if file.stem not in {photo.stem for photo in photos}:
            raise InputError(f"{name}: no photo is called as it is; send A.txt with A.jpg")
        said[file.stem] = _read(file, name)
        check_text(name, said[file.stem])
        try:
            subject.fill(said[file.stem])
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return [said.get(photo.stem, "") for photo in photos]


def _is_text(file: Path) -> bool:
    return file.suffix.lower() == ".txt"


def _read(file: Path, name: str) -> str:
    if file.stat().st_size > LONGEST:
        raise InputError(f"{name}: more than {LONGEST} bytes; write a sentence")
    try:
        return " ".join(file.read_bytes().decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: it is not text in UTF-8") from error
