# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""PyTorch's own files (.ckpt, .pt, .pth, .bin) as tables of arrays.

``torch.save`` writes a zip archive: a pickle that says which tensors there are (:mod:`.pickle_reader`), and the bytes
of each storage.
"""

import functools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.files import Leaf, broken, check_name
from dreambooth_jax.weights.pickle_reader import PickleReader

LONGEST_PICKLE = 25 * 2**20
"""Bytes of the program; that of a model with a hundred thousand tensors has less."""
MOST_COPIES = 4
"""How many times its size all arrays of a file may have together: tensors may share their bytes."""

# What damaged and hostile archives and pickles lead to.
_WRONG = (
    *(zipfile.BadZipFile, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OSError, EOFError, OverflowError, NotImplementedError, RuntimeError, struct.error),
)


def read_torch(file: Path) -> dict[str, Leaf]:
    """The tensors of a file by name; of a checkpoint those of its ``state_dict``, of dicts in a dict ``outer.inner``.

    Raises:
        InputError: naming the file, if it is none, is broken, or asks for anything but tensors.
    """
    if not zipfile.is_zipfile(file):
        raise broken(file, "no zip archive, as PyTorch writes since 1.6; load and save it once with PyTorch")
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
            if "data.pkl" not in members:
                raise broken(file, "an archive without data.pkl")
            program = _bytes_of(file, members["data.pkl"], most=LONGEST_PICKLE)
            if "byteorder" in members and _bytes_of(file, members["byteorder"], most=16) != b"little":
                raise broken(file, "its numbers are big-endian")
        content = PickleReader(file, functools.partial(_place_of_storage, file, members)).read(program)
    except InputError:
        raise
    except _WRONG as error:
        raise broken(file, f"no file of PyTorch: {ascii(error)[:200]}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    items = _items(content)
    leaves = {name: leaf for name, leaf in items if isinstance(name, str) and isinstance(leaf, Leaf)}
    for name in leaves:
        check_name(file, name)
    if sum(leaf.nbytes for leaf in leaves.values()) > MOST_COPIES * file.stat().st_size:
        raise broken(file, f"its tensors have more than {MOST_COPIES} times the bytes that it has")
    return leaves


def _items(content: Any) -> list[tuple[Any, Any]]:
    """Of a dict, or of the dicts that it holds where it holds no tensors itself."""
    if not isinstance(content, dict):
        return []
    if any(isinstance(value, Leaf) for value in content.values()):
        return list(content.items())
    dicts = {outer: inner for outer, inner in content.items() if isinstance(inner, dict)}
    return [
        (f"{outer}.{name}" if isinstance(name, str) else name, leaf)
        for outer, inner in dicts.items()
        for name, leaf in inner.items()
    ]


def _place(file: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of an archive's member begin."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise broken(file, f"{info.filename} is compressed, which PyTorch does not do")
    with open(file, "rb") as stream:
        stream.seek(info.header_offset)
        header = stream.read(30)
    if header[:4] != b"PK\x03\x04":
        raise broken(file, f"{info.filename} is not where the archive says")
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return info.header_offset + 30 + sum(lengths)


def _place_of_storage(file: Path, members: Mapping[str, zipfile.ZipInfo], key: str) -> tuple[int, int]:
    """First byte and number of bytes."""
    info = members[f"data/{key}"]
    return _place(file, info), info.file_size


def _bytes_of(file: Path, info: zipfile.ZipInfo, *, most: int) -> bytes:
    if info.file_size > most:
        raise broken(file, f"{info.filename} has {info.file_size} bytes, more than {most}")
    with open(file, "rb") as stream:
        stream.seek(_place(file, info))
        return stream.read(info.file_size)
