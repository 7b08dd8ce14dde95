# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a file is that was given for one of weights, by its first bytes."""

import codecs
from pathlib import Path

from dreambooth_jax.errors import InputError

POINTER = b"version https://git-lfs."
"""How git-lfs begins what lies in the place of a file."""
_OTHERS = {
    **{b"\x89PNG\r\n": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture"},
    **{b"RIFF": "a WebP picture or a sound", b"%PDF": "a PDF", b"\x1f\x8b": "a gzip archive"},
    b"PK\x03\x04": "a zip archive, as PyTorch's own files are (called .bin, .pt, .ckpt)",
}
"""First bytes of files that are no safetensors, whatever they are called."""


def not_weights(file: Path) -> InputError | None:
    """The error for a file that its first bytes say is of another kind than files of weights; None if they do not."""
    with open(file, "rb") as stream:
        head = stream.read(1024)
    kind = next((kind for start, kind in _OTHERS.items() if head.startswith(start)), None)
    if kind is None and _is_text(head) and not head.startswith(POINTER):
        kind = "a text"
    return InputError(f"{file} is {kind}, not a file of weights: give a .safetensors file") if kind else None


def _is_text(head: bytes) -> bool:
    """Whether bytes begin a text in UTF-8, which may go on after them."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)
