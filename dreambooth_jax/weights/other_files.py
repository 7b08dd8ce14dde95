# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a file is that was given for one of weights, by its first bytes."""

import codecs

_OTHERS = {
    **{b"\x89PNG\r\n": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture"},
    **{b"RIFF": "a WebP picture or a sound", b"%PDF": "a PDF", b"\x1f\x8b": "a gzip archive"},
    b"PK\x03\x04": "a zip archive, as PyTorch's own files are, which are called .pt, .ckpt or .bin",
}


def kind_of_other(head: bytes) -> str | None:
    """What a file is that holds no weights, or not in safetensors; None where its first bytes do not tell."""
    found = next((kind for start, kind in _OTHERS.items() if head.startswith(start)), None)
    return found or ("a text" if _is_text(head) else None)


def _is_text(head: bytes) -> bool:
    """Whether bytes begin a text in UTF-8, which may go on after them."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)
