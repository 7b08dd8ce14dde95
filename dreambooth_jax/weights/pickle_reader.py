# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The pickle of a file of PyTorch, read without running anything that stands in it.

A pickle is a program that may call any function. Of its instructions those that make dictionaries, lists, texts and
numbers are followed, and of functions the few that PyTorch's tensors need are known by name. None is called, nothing is
imported; any other name is refused.
"""

import functools
import math
import pickletools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.files import Leaf, broken, is_side, stored_leaf

_STORAGES = {
    **{"torch.FloatStorage": np.float32, "torch.HalfStorage": np.float16, "torch.DoubleStorage": np.float64},
    **{"torch.BFloat16Storage": ml_dtypes.bfloat16, "torch.LongStorage": np.int64, "torch.IntStorage": np.int32},
    **{"torch.ShortStorage": np.int16, "torch.CharStorage": np.int8, "torch.ByteStorage": np.uint8},
    "torch.BoolStorage": np.bool_,
}
# What trainers leave beside the weights; their values are never made.
_LEFT_OUT = (
    *("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "_codecs.encode", "numpy.dtype"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
_TENSOR, _PARAMETER, _DICT = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "OrderedDict"
_KNOWN = (*_STORAGES, *_LEFT_OUT, _TENSOR, _PARAMETER, f"collections.{_DICT}")


class Name(NamedTuple):
    """A function or class that a pickle names."""

    text: str


class Storage(NamedTuple):
    """Bytes that tensors are made of."""

    dtype: np.dtype
    offset: int
    numbers: int


_MARK = object()
_OMITTED = object()


class PickleReader:
    """Follows a pickle's instructions as far as they make data.

    Args:
        file: with the storages' bytes.
        place: first byte in the file, and number of bytes, of the storage with a key; KeyError if there is none.
    """

    def __init__(self, file: Path, place: Callable[[str], tuple[int, int]]) -> None:
        self.file, self.place = file, place
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, program: bytes) -> Any:
        """What the program leaves."""
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _PUSHED:
                self.stack.append(_PUSHED[opcode.name](argument))
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise broken(self.file, f"its pickle has the instruction {opcode.name}, which no tensor needs")
        raise ValueError("the pickle has no end")

    def since_mark(self) -> list[Any]:
        """What was pushed after the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # from the end: what is passed is taken away, so that it is passed once
            at -= 1
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def take(self, count: int) -> list[Any]:
        """The last values."""
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found

    def name(self, text: str) -> None:
        """A function or class; those that are unknown end it all."""
        if text not in _KNOWN:
            shown = text if text.isprintable() else ascii(text)
            raise InputError(
                f"{self.file} asks for {shown:.100}, which is no tensor and could run any code: it is not opened; load "
                "it with PyTorch, if you trust it, and save its tensors as .safetensors"
            )
        self.stack.append(Name(text))

    def call(self, _: Any) -> None:
        """A known function with its arguments: what it would make, without calling it."""
        function, arguments = self.take(2)
        self.stack.append(self._made(function.text, arguments))

    def _made(self, function: str, arguments: tuple[Any, ...]) -> Any:
        if function.endswith(_DICT):
            return {}
        if function == _PARAMETER:
            return arguments[0]
        if function == _TENSOR:
            return self._tensor(*arguments[:4])
        if function in _LEFT_OUT:
            return _OMITTED
        raise ValueError(f"{function} is called")

    def storage(self, _: Any) -> None:
        """The bytes that a persistent id names: ("storage", type, key, device, number of elements)."""
        (identity,) = self.take(1)
        kind, name, key, _, count = identity
        dtype = np.dtype(_STORAGES[name.text])
        offset, size = self.place(key)
        if kind != "storage" or not is_side(count) or count * dtype.itemsize > size:
            raise ValueError(f"storage {key} has not {count} numbers")
        self.stack.append(Storage(dtype, offset, count))

    def _tensor(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Leaf:
        if len(shape) != len(strides) or not all(map(is_side, (offset, *shape, *strides))):
            raise ValueError(f"a tensor of shape {shape} with strides {strides}")
        size, last = math.prod(shape), sum((side - 1) * stride for side, stride in zip(shape, strides))
        if (size and offset + last >= storage.numbers) or size > storage.numbers:
            raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
        item = storage.dtype.itemsize
        stored = functools.partial(stored_leaf, self.file, dtype=storage.dtype, what="a tensor")
        if all(side == 1 or stride == wanted for side, stride, wanted in zip(shape, strides, _dense(shape))):
            return stored(shape=shape, chunks=[(storage.offset + offset * item, size * item)])
        count = last + 1 if size else 0
        flat = stored(shape=(count,), chunks=[(storage.offset + offset * item, count * item)])
        steps = tuple(stride * item for stride in strides)
        return Leaf(shape=shape, dtype=storage.dtype, load=lambda: _strided(flat.load(), shape, steps))

    def put(self, target: Any, pairs: Sequence[Any]) -> None:
        """Keys and values into a dictionary."""
        if isinstance(target, dict):
            target.update((key, value) for key, value in zip(pairs[::2], pairs[1::2]) if _is_key(key))


def _strided(flat: np.ndarray, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False))


def _dense(shape: Sequence[int]) -> list[int]:
    """Strides of an array without gaps."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int | Name)


def _append(reader: PickleReader, values: list[Any]) -> None:
    if isinstance(reader.stack[-1], list):
        reader.stack[-1].extend(values)


def _set(reader: PickleReader, pairs: list[Any]) -> None:
    reader.put(reader.stack[-1], pairs)


def _tuple(reader: PickleReader, values: list[Any]) -> None:
    reader.stack.append(tuple(values))


_PUSHED: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), lambda text: text),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda number: number),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "SHORT_BINSTRING", "BINSTRING"), lambda _: _OMITTED),
    **{"NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False, "MARK": lambda _: _MARK},
    **{"EMPTY_DICT": lambda _: {}, "EMPTY_LIST": lambda _: [], "EMPTY_TUPLE": lambda _: ()},
}
_STEPS: Mapping[str, Callable[[PickleReader, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda reader, _: None),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda reader, at: reader.memo.update({at: reader.stack[-1]})),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda reader, at: reader.stack.append(reader.memo[at])),
    "MEMOIZE": lambda reader, _: reader.memo.update({len(reader.memo): reader.stack[-1]}),
    "GLOBAL": lambda reader, names: reader.name(names.replace(" ", ".")),
    "STACK_GLOBAL": lambda reader, _: reader.name(".".join(reader.take(2))),
    "REDUCE": PickleReader.call,
    "BINPERSID": PickleReader.storage,
    "BUILD": lambda reader, _: reader.take(1),  # attributes, of dictionaries for one, are no weights
    "POP": lambda reader, _: reader.take(1),
    "TUPLE": lambda reader, _: _tuple(reader, reader.since_mark()),
    "TUPLE1": lambda reader, _: _tuple(reader, reader.take(1)),
    "TUPLE2": lambda reader, _: _tuple(reader, reader.take(2)),
    "TUPLE3": lambda reader, _: _tuple(reader, reader.take(3)),
    "SETITEM": lambda reader, _: _set(reader, reader.take(2)),
    "SETITEMS": lambda reader, _: _set(reader, reader.since_mark()),
    "APPEND": lambda reader, _: _append(reader, reader.take(1)),
    "APPENDS": lambda reader, _: _append(reader, reader.since_mark()),
}
