# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The text inside of a picture's file: PNG's text chunks, and the comment of a camera (EXIF) in JPEG, WebP and others.

A file from a stranger may hold anything: a text that unpacks to gigabytes, or a chunk that claims to be longer than the
file. What is read is bounded, and pixels are not decoded.
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from dreambooth_jax.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST = 2**23
"""Bytes of one text: ComfyUI's largest workflows have one or two million."""
MOST = 64
"""Texts of one file."""
CHUNKS = 100_000
"""Chunks of one file: a picture of the largest size has some ten thousand."""
EXIF, USER_COMMENT = 0x8769, 0x9286


def read_texts(path: str | Path) -> Mapping[str, str]:
    """Keyword -> text. An EXIF comment and a GIF's comment have the keyword ``parameters``, as A1111 writes them.

    Raises:
        InputError: if the file is no picture, or says more than a picture can say.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return _of_png(file, path)
        return _of_others(path)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or "it is no picture"
        raise InputError(f"{path} cannot be read: {reason}") from error


def _of_png(file: BinaryIO, path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for kind, content in _chunks(file, path):
        keyword, _, rest = content.partition(b"\0")
        text = _decoded(kind, rest, path)
        if text is not None:
            texts.setdefault(keyword.decode("latin-1"), text)
        if sum(map(len, texts.values())) > 2 * LONGEST:
            raise _too_long(path)
        if len(texts) > MOST:
            raise InputError(f"{path} has more than {MOST} texts inside: it was not written by a tool for pictures")
    return texts


def _chunks(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of each text; others are skipped unread."""
    for _ in range(CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(size + 4, 1)
            continue
        if size > LONGEST:
            raise _too_long(path)
        yield kind, file.read(size)
        file.seek(4, 1)
    raise InputError(f"{path} has more than {CHUNKS} chunks: it was not written by a tool for pictures")


def _decoded(kind: bytes, rest: bytes, path: Path) -> str | None:
    """The text of a chunk, without its keyword; None where it is broken."""
    try:
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"zTXt":
            return _unpacked(rest[1:], path).decode("latin-1")
        _, _, text = rest[2:].split(b"\0", 2)  # language, keyword in that language, text
        return (_unpacked(text, path) if rest[:1] == b"\1" else text).decode("utf-8", "replace")
    except (zlib.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        return None


def _unpacked(packed: bytes, path: Path) -> bytes:
    """No more than ``LONGEST`` is unpacked to find out that it is too much."""
    text = zlib.decompressobj().decompress(packed, LONGEST + 1)
    if len(text) > LONGEST:
        raise _too_long(path)
    return text


def _too_long(path: Path) -> InputError:
    return InputError(f"{path} has a text of more than {LONGEST} bytes inside: no settings are as long")


def _of_others(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        comment = image.getexif().get_ifd(EXIF).get(USER_COMMENT) or image.info.get("comment") or b""
    if len(comment) > LONGEST:
        raise _too_long(path)
    text = comment if isinstance(comment, str) else _comment(comment)
    return {"parameters": text} if text.strip() else {}


def _comment(comment: bytes) -> str:
    """A user comment, which begins with the name of its encoding."""
    if comment.startswith(b"UNICODE\0"):
        text = comment[8:]
        # which of two bytes comes first is nowhere said: in most languages the zero is the high one
        order = "utf-16-be" if text[0::2].count(0) >= text[1::2].count(0) else "utf-16-le"
        return text.decode(order, "replace").removeprefix("\ufeff")
    plain = comment[8:] if comment.startswith((b"ASCII\0\0\0", b"\0" * 8)) else comment
    return plain.decode("utf-8", "replace")
