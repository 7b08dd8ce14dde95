# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Weight files as tables: name -> shape, dtype and a way to get the bytes.

safetensors and Flax msgpack are both, in essence, headers that say where in the file a leaf's bytes lie. To open a file
is to read its headers; a leaf's bytes are read when asked for, straight into the array that keeps them. Nothing is
memory-mapped, unpickled or read twice, so memory holds what the caller keeps and one leaf.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.json_files import LARGEST
from dreambooth_jax.weights.other_files import kind_of_other

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CODES = {
    **{"F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": _BFLOAT16},
    **{"I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8)},
    **{"U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_)},
}
_CODE_OF = {dtype: code for code, dtype in _CODES.items()}
DTYPES = {dtype.name: dtype for dtype in _CODES.values()}
"""What a leaf may hold, by name."""

LONGEST_HEADER = 25 * 2**20
"""Bytes of a header: a hundred thousand arrays have less. The format's own reader takes four times as many."""
_NO_HASH = "0x" + 64 * "-"
_MOST_AXES = 8
_MOST_NUMBERS = 2**48
_LONGEST_NAME = 500


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A named array in a file, or on its way into one. ``load()`` has the shape and dtype that are promised here."""

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the array's bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def leaf_of(array: np.ndarray) -> Leaf:
    """An array that is there."""
    return Leaf(shape=array.shape, dtype=array.dtype, load=lambda: array)


def turned(leaf: Leaf, turn: Callable[[np.ndarray], np.ndarray]) -> Leaf:
    """The leaf that ``turn`` makes of another when it is loaded; a turn only moves axes."""
    shape = turn(np.broadcast_to(np.int8(0), leaf.shape)).shape  # what happens to one number seen from everywhere
    return Leaf(shape=shape, dtype=leaf.dtype, load=lambda: turn(leaf.load()))


def broken(file: Path, why: str) -> InputError:
    """The error for a file that does not hold what it should."""
    with open(file, "rb") as stream:
        if stream.read(24) == b"version https://git-lfs.":
            return InputError(f"{file} is a git-lfs pointer, not the weights: run `git lfs pull` where it comes from")
    return InputError(f"{file} is broken ({why}): download or copy it again")


def stored_leaf(
    file: Path, *, shape: Sequence[Any], dtype: np.dtype, chunks: Sequence[tuple[int, int]], what: str
) -> Leaf:
    """A leaf whose bytes are the chunks (offset, length) of ``file``.

    Raises:
        InputError: if the chunks don't make up the array or reach beyond the file's end.
    """
    check_name(file, what)
    is_shape = not isinstance(shape, str) and len(shape) <= _MOST_AXES and all(map(is_side, shape))
    if not is_shape or math.prod(side or 1 for side in shape) > _MOST_NUMBERS:
        raise broken(file, f"{what} has no shape of an array: {str(shape)[:80]}")
    leaf = Leaf(
        shape=tuple(shape), dtype=dtype, load=functools.partial(_load, file, tuple(shape), dtype, tuple(chunks))
    )
    size = file.stat().st_size
    if any(offset < 0 or length < 0 or offset + length > size for offset, length in chunks):
        raise broken(file, f"truncated: {what} lies beyond its {size} bytes")
    if sum(length for _, length in chunks) != leaf.nbytes:
        raise broken(file, f"{what} has not the bytes of {dtype.name} {list(shape)}")
    return leaf


def check_name(file: Path, name: str) -> None:
    """Raise InputError for what errors could not name on one line."""
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise broken(file, f"{name!a:.80} is no name of an array")


def is_side(side: object) -> bool:
    """Whether it is a number that a side of an array may have."""
    return isinstance(side, int) and not isinstance(side, bool) and 0 <= side <= _MOST_NUMBERS


def _load(file: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Sequence[tuple[int, int]]) -> np.ndarray:
    array = np.empty(math.prod(shape), dtype)
    target = array.view(np.uint8).data
    with open(file, "rb") as stream:
        for offset, length in chunks:
            stream.seek(offset)
            if stream.readinto(target[:length]) != length:
                raise broken(file, "truncated while it was read")
            target = target[length:]
    return array.reshape(shape)


def read_safetensors(file: Path) -> dict[str, Leaf]:
    """The table of a safetensors file (https://github.com/huggingface/safetensors#format).

    Raises:
        InputError: naming the file, if it is truncated, malformed, a git-lfs pointer, or holds an unknown dtype.
    """
    return read_header(file)[0]


def read_header(file: Path) -> tuple[dict[str, Leaf], dict[str, str]]:
    """The table of a safetensors file, and its metadata.

    Raises:
        InputError: as :func:`read_safetensors`.
    """
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size - 8:
            stream.seek(0)
            kind = kind_of_other(stream.read(1024))
            raise broken(file, f"it is {kind}" if kind else "truncated or not a safetensors file")
        if length > LONGEST_HEADER:
            raise broken(file, f"its header has {length} bytes, more than {LONGEST_HEADER}")
        try:
            header = json.loads(stream.read(length))
            metadata = header.pop("__metadata__", None) or {}
            if not all(isinstance(value, str) for value in metadata.values()):
                raise ValueError("metadata that is no text")
            table = {name: (_CODES[v["dtype"]], v["shape"], tuple(v["data_offsets"])) for name, v in header.items()}
            _check_offsets([place for _, _, place in table.values()], file.stat().st_size - 8 - length)
            leaves = {
                name: stored_leaf(file, shape=shape, dtype=dtype, chunks=[(8 + length + a, b - a)], what=name)
                for name, (dtype, shape, (a, b)) in table.items()
            }
        except InputError:
            raise
        except RecursionError as error:
            raise broken(file, "malformed header: it is nested too deep") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise broken(file, f"malformed header: {error!a:.200}") from error
    return leaves, metadata


def _check_offsets(places: Sequence[tuple[Any, Any]], size: int) -> None:
    """Raise ValueError unless the arrays lie one after the other and fill the file, as the format asks for: where they
    overlapped, a small file could hold any number of large arrays."""
    end = 0
    if not all(is_side(place) for both in places for place in both):
        raise ValueError("an offset is no number of a byte")
    for begin, after in sorted(places):
        if begin != end or after < begin:
            raise ValueError(f"array at byte {begin} where {end} was due: they overlap, or there are gaps")
        end = after
    if end < size:
        raise ValueError(f"{size - end} bytes belong to no array")


def write_safetensors(
    file: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str] | None = None, *, hash_name: str = ""
) -> None:
    """Write leaves one after the other; each is loaded when its turn comes and forgotten at once.

    Args:
        file: to write.
        leaves: by name.
        metadata: texts for the header.
        hash_name: of metadata that is to hold 0x and the SHA-256 of the bytes after the header; empty for none.

    Raises:
        OSError: if the disk is full.
    """
    texts = {"format": "pt", **(metadata or {})}  # transformers wants to see the first there
    header = header_of(leaves, texts | ({hash_name: _NO_HASH} if hash_name else {}))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    digest = hashlib.sha256()
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for leaf in leaves.values():
            array = leaf.load()
            write_array(stream, array)
            if hash_name:
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        if hash_name:
            stream.seek(8 + text.index(_NO_HASH.encode()))
            stream.write(f"0x{digest.hexdigest()}".encode())


def header_of(leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The header of a safetensors file that holds leaves one after the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, leaf in leaves.items():
        begin, end = end, end + leaf.nbytes
        header[name] = {"dtype": _CODE_OF[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [begin, end]}
    return header


def write_array(stream: BinaryIO, array: np.ndarray) -> None:
    """The array's bytes in C order, without a copy where it already lies so."""
    stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def read_index(file: Path) -> dict[str, str]:
    """The ``weight_map`` of an index of shards: leaf -> name of the file beside the index that holds it.

    Where links lead to does not matter: the hub's cache is made of links.

    Raises:
        InputError: if it is malformed or too large, or names a file outside its folder.
    """
    if file.stat().st_size > LARGEST:
        raise broken(file, f"it has {file.stat().st_size} bytes, more than the {LARGEST} of an index")
    try:
        weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        strays = [shard for shard in weight_map.values() if not _is_name(shard)]
    except RecursionError as error:
        raise broken(file, "no index of shards: it is nested too deep") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise broken(file, f"no index of shards: {error!r}") from error
    if strays:
        raise InputError(f"{file} points outside its folder: {strays[0]!a:.200}")
    return weight_map


def _is_name(text: str) -> bool:
    """Whether it is the name of a file, rather than a path to one."""
    return Path(text).name == text and text not in ("", "..") and text.isprintable()


def read_shards(index: Path, read: Callable[[Path], dict[str, Leaf]]) -> dict[str, Leaf]:
    """The leaves that an index lists, each from its shard.

    Raises:
        InputError: naming the shard that is missing or lacks a leaf.
    """
    weight_map = read_index(index)
    shards: dict[str, dict[str, Leaf]] = {}
    for name in sorted(set(weight_map.values())):
        if not (index.parent / name).is_file():
            raise InputError(f"{index.parent} lacks {name}, which {index.name} lists")
        shards[name] = read(index.parent / name)
    for leaf, shard in weight_map.items():
        if leaf not in shards[shard]:
            raise broken(index, f"it says that {shard} holds {leaf}, which it does not")
    return {leaf: shards[shard][leaf] for leaf, shard in weight_map.items()}
