# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""safetensors and msgpack against the libraries that define them, and every way a file can be broken."""

import json

import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import flatten, unflatten
from dreambooth_jax.weights import flax_msgpack
from dreambooth_jax.weights.files import Leaf, read_safetensors, read_shards, write_safetensors
from dreambooth_jax.weights.flax_msgpack import read_msgpack, write_msgpack

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438167540\n"
READERS = {"m.safetensors": read_safetensors, "m.msgpack": read_msgpack}


@pytest.fixture(scope="module")
def arrays():
    """One of each dtype and number of axes that occurs, with long and short names."""
    draw = np.random.default_rng(0).normal
    return {
        "a/kernel": draw(size=(3, 3, 2, 4)).astype(np.float32),
        "a/bias": draw(size=4).astype(np.float16),
        "b/" + "long" * 20 + "/scale": draw(size=(70, 300)).astype(ml_dtypes.bfloat16),
        "b/double": draw(size=(1, 5)),
        "ids": np.arange(77)[None],
        "nothing": np.zeros((0, 3), np.float32),
    }


def leaves(arrays):
    return {name: Leaf(shape=a.shape, dtype=a.dtype, load=lambda a=a: a) for name, a in arrays.items()}


def assert_same(found, arrays):
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        loaded = found[name].load() if isinstance(found[name], Leaf) else found[name]
        assert (loaded.shape, loaded.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(loaded, array)


@pytest.fixture(params=READERS)
def stored(request, arrays, tmp_path):
    """(file, its reader) as the formats' own libraries write them."""
    file = tmp_path / request.param
    if file.suffix == ".msgpack":
        file.write_bytes(serialization.msgpack_serialize(unflatten(arrays)))
    else:
        save_file(arrays, file, metadata={"format": "pt"})
    return file, READERS[request.param]


def test_reads_what_the_library_writes(stored, arrays):
    file, read = stored
    assert_same(read(file), arrays)


def test_the_safetensors_library_reads_what_we_write(arrays, tmp_path):
    write_safetensors(tmp_path / "m.safetensors", leaves(arrays))
    assert_same(load_file(tmp_path / "m.safetensors"), arrays)
    assert_same(read_safetensors(tmp_path / "m.safetensors"), arrays)


@pytest.mark.parametrize("chunk_bytes", [2**30, 64])
def test_flax_reads_what_we_write_and_we_what_flax_chunks(arrays, tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", chunk_bytes)
    monkeypatch.setattr(flax_msgpack, "CHUNK_BYTES", chunk_bytes)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_msgpack(ours, leaves(arrays))
    theirs.write_bytes(serialization.msgpack_serialize(unflatten(arrays)))
    assert_same(flatten(serialization.msgpack_restore(ours.read_bytes())), arrays)
    assert_same(read_msgpack(theirs), arrays)
    assert_same(read_msgpack(ours), arrays)


@given(scale=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None, database=None)
@pytest.mark.parametrize("name", READERS)
def test_a_truncated_file_never_passes(name, scale, arrays, tmp_path_factory):
    whole = serialization.msgpack_serialize(unflatten(arrays))
    if name == "m.safetensors":
        save_file(arrays, (whole_file := tmp_path_factory.getbasetemp() / "whole"))
        whole = whole_file.read_bytes()
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(whole[: int(scale * len(whole))])
    with pytest.raises(InputError, match=f"{name} is broken"):
        READERS[name](file)


@pytest.mark.parametrize("content", ["", LFS, "<html>404</html>" * 9, '{"a": 1}', "\x00" * 200, "\x81" * 5000])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_weight_file_is_one_line(name, content, tmp_path):
    file = tmp_path / name
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="git-lfs pointer" if content == LFS else "is broken") as caught:
        READERS[name](file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": {}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-400, -396]}},
        {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}},
    ],
)
def test_headers_that_lie(header, tmp_path):
    text = json.dumps(header).encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0\0\0")
    with pytest.raises(InputError, match="is broken"):
        read_safetensors(file)


@pytest.mark.parametrize("content", [{"a": 1}, {"a": [np.zeros(2)]}, {"a": 1j}, {"a": {"b": "text"}}])
def test_msgpack_that_holds_more_than_arrays(content, tmp_path):
    file = tmp_path / "m.msgpack"
    file.write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(InputError, match="is broken"):
        read_msgpack(file)


def test_a_file_that_shrinks_before_its_bytes_are_read(stored):
    file, read = stored
    table = read(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="truncated while it was read"):
        for leaf in table.values():
            leaf.load()


class TestShards:
    """An index beside its shards."""

    @pytest.fixture
    def index(self, arrays, tmp_path):
        names = list(arrays)
        place = {name: f"m-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
        for shard in set(place.values()):
            save_file({name: arrays[name] for name in names if place[name] == shard}, tmp_path / shard)
        file = tmp_path / "m.safetensors.index.json"
        file.write_text(json.dumps({"metadata": {}, "weight_map": place}))
        return file

    def test_all_leaves_are_there(self, index, arrays):
        assert_same(read_shards(index, read_safetensors), arrays)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', LFS])
    def test_no_index(self, index, content):
        index.write_text(content)
        with pytest.raises(InputError, match="git-lfs" if content == LFS else "no index of shards"):
            read_shards(index, read_safetensors)

    def test_missing_shard(self, index):
        (index.parent / "m-00002-of-00002.safetensors").unlink()
        with pytest.raises(
            InputError, match="lacks m-00002-of-00002.safetensors, which m.safetensors.index.json lists"
        ):
            read_shards(index, read_safetensors)

    def test_leaf_that_its_shard_lacks(self, index):
        content = json.loads(index.read_text())
        content["weight_map"]["ghost"] = "m-00001-of-00002.safetensors"
        index.write_text(json.dumps(content))
        with pytest.raises(InputError, match="ghost"):
            read_shards(index, read_safetensors)

    @pytest.mark.parametrize("stray", ["../m.safetensors", "/etc/passwd", "a/b.safetensors"])
    def test_an_index_cannot_point_elsewhere(self, index, stray):
        index.write_text(json.dumps({"weight_map": {"a": stray}}))
        with pytest.raises(InputError, match="outside its folder"):
            read_shards(index, read_safetensors)
