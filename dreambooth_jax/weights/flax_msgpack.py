# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Flax's msgpack files: nested maps whose arrays are extension values holding (shape, dtype name, bytes).

``flax.serialization`` reads and writes them whole, with two or three copies of the model in memory. The reader here
walks over the file, notes where every array's bytes lie and skips them; the writer streams them.
The format: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np

from dreambooth_jax.trees import flatten, unflatten
from dreambooth_jax.weights.files import DTYPES, Leaf, broken, stored_leaf, write_array

_ARRAY = 1  # the extension code
_CHUNKED = "__msgpack_chunked_array__"
CHUNK_BYTES = 2**30
"""Larger arrays are split: msgpack's lengths have 32 bits."""

LONGEST_TEXT = 2**16
"""Bytes of a name."""


@dataclass(frozen=True)
class _Stored:
    """An array's place in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[tuple[int, int], ...]


def read_msgpack(file: Path) -> dict[str, Leaf]:
    """The table of a Flax msgpack file; nested names are joined with ``/``.

    Raises:
        InputError: naming the file, if it is truncated, malformed, a git-lfs pointer, or holds anything but arrays.
    """
    with open(file, "rb") as stream:
        try:
            arrays = flatten(_value(stream))
        except EOFError as error:
            raise broken(file, "truncated") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise broken(file, f"no Flax msgpack: {error!r}") from error
    strays = [name for name, array in arrays.items() if not isinstance(array, _Stored)]
    if strays:
        raise broken(file, f"{strays[0]} is no array")
    return {
        name: stored_leaf(file, shape=array.shape, dtype=array.dtype, chunks=array.chunks, what=name)
        for name, array in arrays.items()
    }


def _take(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _text(stream: BinaryIO, length: int) -> str:
    if length > LONGEST_TEXT:
        raise ValueError(f"a name of {length} bytes")
    return _take(stream, length).decode()


def _skip(stream: BinaryIO, length: int) -> tuple[int, int]:
    """(offset, length) of bytes that are passed over."""
    offset = stream.tell()
    stream.seek(length, 1)
    return offset, length


def _list(stream: BinaryIO, length: int) -> list[Any]:
    return [_value(stream) for _ in range(length)]


def _map(stream: BinaryIO, length: int) -> Any:
    items = {_value(stream): _value(stream) for _ in range(length)}
    if _CHUNKED not in items:
        return items
    parts = items["chunks"].values()
    (dtype,) = {part.dtype for part in parts}
    return _Stored(tuple(items["shape"].values()), dtype, tuple(chunk for part in parts for chunk in part.chunks))


def _array(stream: BinaryIO, length: int) -> _Stored:
    code = _take(stream, 1)[0]
    if code != _ARRAY:
        raise ValueError(f"extension {code} of {length} bytes is no array")
    shape, dtype, chunk = _value(stream)
    return _Stored(tuple(shape), DTYPES[dtype], (chunk,))


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_SIZED: dict[int, tuple[Callable[[BinaryIO, int], Any], int]] = {  # tag -> reader, bytes of the length that follows
    **{0xC4: (_skip, 1), 0xC5: (_skip, 2), 0xC6: (_skip, 4), 0xC7: (_array, 1), 0xC8: (_array, 2), 0xC9: (_array, 4)},
    **{0xD9: (_text, 1), 0xDA: (_text, 2), 0xDB: (_text, 4)},
    **{0xDC: (_list, 2), 0xDD: (_list, 4), 0xDE: (_map, 2), 0xDF: (_map, 4)},
}


def _value(stream: BinaryIO) -> Any:
    """The next msgpack value, with places instead of bytes."""
    tag = _take(stream, 1)[0]
    if tag <= 0x7F or tag >= 0xE0:
        return int.from_bytes([tag], signed=True)
    if tag <= 0x8F:
        return _map(stream, tag & 0xF)
    if tag <= 0x9F:
        return _list(stream, tag & 0xF)
    if tag <= 0xBF:
        return _text(stream, tag & 0x1F)
    if tag in _CONSTANTS:
        return _CONSTANTS[tag]
    if tag in _NUMBERS:
        return struct.unpack(_NUMBERS[tag], _take(stream, struct.calcsize(_NUMBERS[tag])))[0]
    if 0xD4 <= tag <= 0xD8:
        return _array(stream, 1 << (tag - 0xD4))
    read, width = _SIZED[tag]
    return read(stream, int.from_bytes(_take(stream, width)))


def write_msgpack(file: Path, leaves: Mapping[str, Leaf]) -> None:
    """Write leaves named ``a/b/c`` so that ``flax.serialization.msgpack_restore`` reads them; one at a time in memory.

    Raises:
        OSError: if the disk is full.
    """
    with open(file, "wb") as stream:
        _write_tree(stream, unflatten(leaves))


def _write_tree(stream: BinaryIO, tree: Mapping[str, Any]) -> None:
    stream.write(msgpack.Packer().pack_map_header(len(tree)))
    for name, value in tree.items():
        stream.write(msgpack.packb(name))
        if isinstance(value, Mapping):
            _write_tree(stream, value)
        elif value.nbytes <= CHUNK_BYTES:
            _write_array(stream, value.load())
        else:
            _write_chunks(stream, value.load())


def _write_array(stream: BinaryIO, array: np.ndarray) -> None:
    head = b"\x93" + msgpack.packb(array.shape) + msgpack.packb(array.dtype.name)
    head += b"\xc6" + array.nbytes.to_bytes(4, "big")
    stream.write(b"\xc9" + (len(head) + array.nbytes).to_bytes(4, "big") + bytes([_ARRAY]) + head)
    write_array(stream, array)


def _write_chunks(stream: BinaryIO, array: np.ndarray) -> None:
    count = max(1, CHUNK_BYTES // array.dtype.itemsize)
    flat = np.ascontiguousarray(array).reshape(-1)
    stream.write(b"\x83" + msgpack.packb(_CHUNKED) + b"\xc3" + msgpack.packb("shape"))
    stream.write(msgpack.packb({str(axis): length for axis, length in enumerate(array.shape)}))
    stream.write(msgpack.packb("chunks") + msgpack.Packer().pack_map_header(math.ceil(flat.size / count)))
    for number, start in enumerate(range(0, flat.size, count)):
        stream.write(msgpack.packb(str(number)))
        _write_array(stream, flat[start : start + count])
