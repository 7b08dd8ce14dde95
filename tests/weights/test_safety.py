# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whatever lies in a model's files: it is read, or one line says which file is wrong, soon and in little memory."""

import json
import os
import shutil
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dreambooth_jax.data import images
from dreambooth_jax.data.tokenizer import load_tokenizer
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.reading import read_remake
from dreambooth_jax.text_files import read_lines
from dreambooth_jax.weights import files, flax_msgpack, json_files
from dreambooth_jax.weights.files import read_header, read_index, read_safetensors, read_shards
from dreambooth_jax.weights.flax_msgpack import read_msgpack
from dreambooth_jax.weights.pretrained import load_components
from tests.weights.folders import FIXTURES, assert_same, shard

DEEP = "[" * 200_000
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def refused(call, message=None, *, named=None):
    """The one short line that a call ends with."""
    with pytest.raises(InputError, match=message) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 1000
    if named is not None:
        assert str(named) in line


def store(file: Path, header, data: bytes = b"\0" * 4) -> Path:
    """A safetensors file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def _one(**changes):
    return {"a": {**ONE, **changes}}


class TestSafetensors:
    """Headers that lie."""

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ({"a": ONE, "b": ONE}, "overlap"),
            ({"a": ONE, "b": _one(data_offsets=[2, 6])["a"]}, "overlap"),
            (_one(data_offsets=[4, 8]), "gaps"),
            (_one(dtype="U8"), "has not the bytes"),
            ({}, "4 bytes belong to no array"),
            (_one(data_offsets=[0, 8], shape=[2]), "lies beyond"),
            (_one(data_offsets=[4, 0]), "malformed header"),
            (_one(data_offsets=[0.0, 4.0]), "an offset is no number"),
            (_one(data_offsets=[False, 4]), "an offset is no number"),
            (_one(data_offsets=[0, 4, 8]), "malformed header"),
            (_one(dtype="F8_E5M2"), "malformed header: KeyError"),
            (_one(dtype=["F32"]), "malformed header: TypeError"),
            (_one(shape=[True]), "no shape of an array"),
            (_one(shape=[1.0]), "no shape of an array"),
            (_one(shape=[1] * 100), "no shape of an array"),
            (_one(shape=[2**32, 2**32]), "no shape of an array"),
            (_one(shape=[2**62, 0], data_offsets=[0, 0]), "no shape of an array|belong to no array"),
            ({"a\nb": ONE}, "is no name of an array"),
            ({"a" * 1_000_000: ONE}, "is no name of an array"),
            ({"__metadata__": {"a": 3}, "a": ONE}, "metadata that is no text"),
            ({"__metadata__": [3], "a": ONE}, "malformed header"),
            (DEEP.encode(), "nested too deep"),
            (b'{"a":' + DEEP.encode(), "nested too deep"),
            (b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', "malformed header"),
            (b"\xff\xfe{}", "malformed header"),
        ],
    )
    def test_one_line_names_the_file(self, header, message, tmp_path):
        file = store(tmp_path / "m.safetensors", header)
        refused(lambda: read_safetensors(file), message, named=file)

    @pytest.mark.parametrize("shape", [[2**40, 2**40, 2**40, 0], [2**62, 0]])
    def test_shapes_that_overflow_though_they_hold_nothing(self, shape, tmp_path):
        file = store(tmp_path / "m.safetensors", _one(shape=shape, data_offsets=[0, 0]), b"")
        refused(lambda: read_safetensors(file), "no shape of an array")

    def test_a_header_that_is_too_long_is_not_read(self, tmp_path, monkeypatch):
        file = store(tmp_path / "m.safetensors", json.dumps({"a": ONE}).encode() + b" " * 5000)
        assert list(read_safetensors(file)) == ["a"]
        monkeypatch.setattr(files, "LONGEST_HEADER", 4000)
        monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("parsed"))
        refused(lambda: read_safetensors(file), "its header has 5.* bytes, more than 4000")

    @pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 8])
    def test_what_is_hardly_there(self, content, tmp_path):
        (tmp_path / "m.safetensors").write_bytes(content)
        refused(lambda: read_safetensors(tmp_path / "m.safetensors"), "is broken", named=tmp_path / "m.safetensors")

    @given(data=st.data())
    @settings(max_examples=200, deadline=None, database=None)
    def test_whatever_is_changed_it_is_read_or_refused(self, data, tmp_path_factory):
        file = tmp_path_factory.getbasetemp() / "changed.safetensors"
        whole = {"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, "b": _one(data_offsets=[12, 16])["a"]}
        content = bytearray(store(file, {"__metadata__": {"x": "y"}, **whole}, b"\0" * 16).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        try:
            leaves, _ = read_header(file)
        except InputError as error:
            leaves, line = {}, str(error)
            assert line.isprintable()
        for leaf in leaves.values():
            assert leaf.load().shape == leaf.shape


class TestIndex:
    """An index of shards."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (DEEP, "nested too deep"),
            ('{"weight_map": {"a": ' + DEEP, "nested too deep"),
            ("", "no index of shards"),
            ('{"weight_map": {"a": ".."}}', r"points outside its folder: '\.\.'"),
            ('{"weight_map": {"a": ""}}', "points outside its folder: ''"),
            ('{"weight_map": {"a": "."}}', "points outside its folder"),
            ('{"weight_map": {"a": "/etc/passwd"}}', "points outside its folder: '/etc/passwd'"),
            ('{"weight_map": {"a": "../x.safetensors"}}', "points outside its folder"),
            ('{"weight_map": {"a": "x\\u0000y"}}', "points outside its folder"),
            ('{"weight_map": {"a": "x\\ny"}}', "points outside its folder"),
            ('{"weight_map": {"a": "gone.safetensors"}}', "lacks gone.safetensors, which m.index.json lists"),
            ('{"weight_map": {"a": "m.index.json"}}', "is broken"),
        ],
    )
    def test_one_line(self, content, message, tmp_path):
        (tmp_path / "m.index.json").write_text(content)
        refused(lambda: read_shards(tmp_path / "m.index.json", read_safetensors), message, named=tmp_path)

    def test_one_that_is_too_large_is_not_read(self, tmp_path, monkeypatch):
        (tmp_path / "m.index.json").write_text('{"weight_map": {}}')
        monkeypatch.setattr(files, "LARGEST", 10)
        refused(lambda: read_index(tmp_path / "m.index.json"), "it has 18 bytes, more than the 10 of an index")


class TestMsgpack:
    """Legacy Flax."""

    @pytest.mark.parametrize(
        "content",
        [
            b"\x91" * 100_000,
            b"\xdb\xff\xff\xff\xff" + b"a" * 50,
            b"\x81\xa1a\xc7\x20\x01\x93\x92\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x00\xa7float32\xc4\x00",
            b"\x81\xa3a\nb\xc7\x0d\x01\x93\x91\x01\xa5uint8\xc4\x01\x00",
        ],
    )
    def test_one_line(self, content, tmp_path):
        (tmp_path / "m.msgpack").write_bytes(content)
        refused(lambda: read_msgpack(tmp_path / "m.msgpack"), "is broken", named=tmp_path / "m.msgpack")

    def test_a_name_that_is_too_long_is_not_read(self, tmp_path, monkeypatch):
        (tmp_path / "m.msgpack").write_bytes(b"\x81\xd9\xc8" + b"a" * 200 + b"\x01")
        monkeypatch.setattr(flax_msgpack, "LONGEST_TEXT", 100)
        refused(lambda: read_msgpack(tmp_path / "m.msgpack"), "a name of 200 bytes")


SETTINGS = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "text_encoder/config.json")


class TestFolder:
    """Files of a model's folder."""

    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize(
        "content", [DEEP, '{"a":' * 100_000, "", "\0", "null", "3", '"text"', "[1]", '{"a": ' + "9" * 5000 + "}"]
    )
    def test_settings(self, folder, name, content):
        (folder / name).write_text(content)
        refused(lambda: load_components(folder), named=folder / name)

    @pytest.mark.parametrize("name", SETTINGS)
    def test_settings_that_are_too_large_are_not_read(self, folder, name, monkeypatch):
        monkeypatch.setattr(json_files, "LARGEST", 5000)
        (folder / name).write_text("{" + " " * 5000 + "}")
        refused(lambda: load_components(folder), "has 5002 bytes, more than the 5000", named=folder / name)

    @pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"])
    @pytest.mark.parametrize("content", [DEEP, '{"a":' * 100_000, "", "null", "3", "[]"])
    def test_a_tokenizer(self, folder, name, content):
        (folder / "tokenizer" / name).write_text(content)
        refused(lambda: load_tokenizer(folder / "tokenizer"), named=folder / "tokenizer")

    @pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json"])
    def test_a_tokenizer_that_is_too_large_is_not_read(self, folder, name, monkeypatch):
        monkeypatch.setattr("dreambooth_jax.data.tokenizer.LARGEST", 50_000)
        (folder / "tokenizer" / name).write_text("{" + " " * 50_000 + "}")
        refused(lambda: load_tokenizer(folder / "tokenizer"), f"{name} has more than 50000 bytes")

    def test_every_file_empty(self, folder):
        """Each in its turn; the vocabulary's files by the tokenizer."""
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            kept = file.read_bytes()
            file.write_bytes(b"")
            if file.parent.name != "tokenizer":
                refused(lambda: load_components(folder), named=file)
            elif file.name != "special_tokens_map.json":  # which no version of the library needs
                refused(lambda: load_tokenizer(folder / "tokenizer"))
            file.write_bytes(kept)


class TestLinks:
    """The hub's cache is made of links to files elsewhere."""

    def test_a_snapshot_of_links_is_read_with_its_shards(self, folder, sd15, tmp_path):
        shard(folder, "unet")
        blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "abc"
        blobs.mkdir(parents=True)
        for number, file in enumerate(one for one in folder.rglob("*") if one.is_file()):
            place = snapshot / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, blobs / str(number))
            place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
        assert_same(load_components(snapshot).params, sd15.params)
        load_tokenizer(snapshot / "tokenizer")

    @pytest.mark.parametrize("target", ["gone", "config.json"])  # nowhere, and itself
    def test_links_that_lead_nowhere(self, folder, target):
        (folder / "unet" / "config.json").unlink()
        (folder / "unet" / "config.json").symlink_to(target)
        refused(lambda: load_components(folder), "lacks unet/config.json", named=folder)

    def test_a_link_to_what_is_no_file(self, folder):
        weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
        weights.unlink()
        weights.symlink_to("/dev/zero")
        refused(lambda: load_components(folder), "has no weights", named=folder)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A sound picture with more chunks."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(buffer, "PNG")
    whole = buffer.getvalue()
    more = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return whole[:33] + more + whole[33:]  # behind the header


BOMB = zlib.compress(b"a" * 300_000_000, 9)


class TestPictures:
    """Texts in pictures that unpack to hundreds of megabytes."""

    @pytest.mark.parametrize(
        "chunk",
        [
            (b"zTXt", b"parameters\0\0" + BOMB),
            (b"iTXt", b"parameters\0\1\0\0\0" + BOMB),
            (b"tEXt", b"parameters\0" + b"a" * 40_000_000),
        ],
    )
    def test_they_cost_no_photo_and_are_not_read(self, chunk, tmp_path):
        file = tmp_path / "bomb.png"
        file.write_bytes(png(chunk))
        assert images.decode(file.read_bytes()).size == (8, 8)
        refused(lambda: read_remake(file), "has a text of more than", named=file)

    def test_a_profile_of_colours(self):
        """Pillow unpacks no more than a megabyte of one."""
        try:
            assert images.decode(png((b"iCCP", b"x\0\0" + BOMB))).size == (8, 8)
        except InputError as error:
            line = str(error)
            assert line.isprintable()

    @pytest.mark.parametrize("keyword", ["dreambooth_jax", "prompt", "invokeai_metadata", "workflow"])
    def test_json_that_is_nested_without_end(self, keyword, tmp_path):
        file = tmp_path / "deep.png"
        file.write_bytes(png((b"tEXt", f"{keyword}\0".encode() + DEEP.encode())))
        refused(lambda: read_remake(file), named=file)

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "empty.png").write_bytes(b"")
        refused(lambda: images.decode(b"", name=str(tmp_path / "empty.png")), named=tmp_path / "empty.png")
        refused(lambda: read_remake(tmp_path / "empty.png"), named=tmp_path / "empty.png")


def test_a_file_of_prompts_without_end(tmp_path, monkeypatch):
    file = tmp_path / "prompts.txt"
    file.write_text("a dog\n" * 1000)
    assert len(read_lines(file)) == 1000
    monkeypatch.setattr("dreambooth_jax.text_files.LARGEST", 5000)
    refused(lambda: read_lines(file), "has more than 5000 bytes", named=file)


def test_a_prompt_of_a_hundred_megabytes():
    tokenizer = load_tokenizer(FIXTURES / "legacy_flax_sd15" / "tokenizer")
    prompt = "a dog " * 17_000_000
    for call in (tokenizer.lost, tokenizer.pieces, lambda text: tokenizer([text])):
        refused(lambda call=call: call(prompt))


def test_arrays_of_one_sound_file_are_what_the_library_reads(tmp_path):
    from safetensors.numpy import load_file, save_file

    arrays = {"b": np.arange(3, dtype=np.int8), "a": np.zeros((0, 4), np.float32), "c": np.ones((), np.float16)}
    save_file(arrays, tmp_path / "m.safetensors", metadata={"x": "é"})
    leaves, metadata = read_header(tmp_path / "m.safetensors")
    assert metadata == {"x": "é"}
    for name, array in load_file(tmp_path / "m.safetensors").items():
        np.testing.assert_array_equal(leaves[name].load(), array)
