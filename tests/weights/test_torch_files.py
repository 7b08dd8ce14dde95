# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""PyTorch's files are read as PyTorch reads them, and nothing that stands in them is run."""

import collections
import os
import pickle
import pickletools
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.pretrained import load_components
from dreambooth_jax.weights.single_file import open_single_file
from dreambooth_jax.weights.torch_files import read_torch
from tests.weights.folders import FIXTURES, assert_same
from tests.weights.originals import Original


def archive(file, program, storages=(), *, compress=zipfile.ZIP_STORED, byteorder=b"little"):
    """A file of which the pickle is given."""
    with zipfile.ZipFile(file, "w", compress) as target:
        target.writestr("model/data.pkl", program)
        target.writestr("model/byteorder", byteorder)
        for number, content in enumerate(storages):
            target.writestr(f"model/data/{number}", content)
    return file


class TestParity:
    """PyTorch is right."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parity
    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_all_that_weights_are_kept_as(self, torch, tmp_path, protocol):
        base = torch.arange(24.0).reshape(4, 6)
        tensors = {
            "plain": base,
            "half": base.half(),
            "brain": base.bfloat16(),
            "double": base.double(),
            "whole": torch.arange(7),
            "truth": torch.tensor([True, False]),
            "scalar": torch.tensor(3.5),
            "nothing": torch.zeros(0, 3),
            "turned": base.T,
            "part": base[1:3, 2:5],
            "every second": base[:, ::2],
            "parameter": torch.nn.Parameter(base + 1),
            "long": torch.randn(300, 20),
        }
        torch.save(tensors, tmp_path / "m.pt", pickle_protocol=protocol)
        found = read_torch(tmp_path / "m.pt")
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            loaded = found[name].load()
            assert (loaded.shape, loaded.dtype) == (found[name].shape, found[name].dtype)
            assert loaded.shape == tuple(tensor.shape)
            assert str(tensor.dtype) == f"torch.{loaded.dtype}"
            expected = tensor.detach().double().numpy()
            np.testing.assert_array_equal(loaded.astype(np.float64), expected, err_msg=name)

    @pytest.mark.parity
    def test_a_module_and_a_trainers_checkpoint(self, torch, tmp_path):
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
        torch.save(module.state_dict(), tmp_path / "plain.bin")
        checkpoint = {
            "epoch": 3,
            "global_step": 470000,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": module.state_dict(),
            "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "callbacks": {"x": (1, 2.5, [None, True])},
        }
        torch.save(checkpoint, tmp_path / "trained.ckpt")
        expected = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
        for name in ("plain.bin", "trained.ckpt"):
            assert_same({key: leaf.load() for key, leaf in read_torch(tmp_path / name).items()}, expected)

    @pytest.mark.parity
    def test_what_lightning_left_is_passed_over(self, torch, tmp_path, monkeypatch):
        import types

        module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
        module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
            monkeypatch.setitem(sys.modules, name, module)
        scores = {module.ModelCheckpoint: {"best": np.float64(0.5)}}
        torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": scores}, tmp_path / "m.ckpt")
        monkeypatch.undo()
        assert list(read_torch(tmp_path / "m.ckpt")) == ["a"]

    @pytest.mark.parity
    def test_a_checkpoint_is_the_model_that_its_safetensors_are(self, torch, tmp_path):
        sizes = Original()
        whole = sizes.write(tmp_path / "m.safetensors")
        tensors = {name: torch.tensor(array) for name, array in sizes.arrays().items()}
        torch.save({"state_dict": tensors, "global_step": 1}, tmp_path / "m.ckpt")
        tokenizer = FIXTURES / "legacy_flax_sd15"
        one, other = (load_components(file, tokenizer=tokenizer) for file in (whole, tmp_path / "m.ckpt"))
        assert one.modules == other.modules
        assert_same(other.params, one.params)


class Calls:
    """Whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


class TestHostile:
    """One line, and nothing happens."""

    @pytest.mark.parametrize(
        ("function", "named"),
        [
            (os.system, f"{os.system.__module__}.system"),
            (eval, "builtins.eval"),
            (print, "builtins.print"),
            (getattr, "builtins.getattr"),
            (collections.Counter, "collections.Counter"),
            (pickle.loads, "_pickle.loads"),
        ],
    )
    @pytest.mark.parametrize("protocol", [2, 4])
    def test_no_function_is_called(self, function, named, protocol, tmp_path, capsys):
        marker = tmp_path / "was run"
        program = pickle.dumps({"a": Calls(function, f"touch '{marker}'")}, protocol=protocol)
        file = archive(tmp_path / "m.ckpt", program)
        named = named.replace("builtins", "__builtin__").replace("_pickle", "pickle") if protocol == 2 else named
        with pytest.raises(InputError, match=rf"m\.ckpt asks for {named}, which is no tensor") as caught:
            open_single_file(file)
        assert "\n" not in str(caught.value)
        assert not marker.exists()
        assert capsys.readouterr().out == ""

    def test_the_names_that_are_known_are_not_called_either(self, tmp_path, monkeypatch):
        """No class of those that a file may name is made: not even imported."""
        for text in ("torch._utils _rebuild_parameter", "numpy dtype", "_codecs encode"):
            module, name = text.split()
            program = b"\x80\x02}X\x01\x00\x00\x00a" + f"c{module}\n{name}\n".encode() + b"X\x01\x00\x00\x00b\x85Rs."
            before = set(sys.modules)
            assert read_torch(archive(tmp_path / "m.ckpt", program)) == {}
            assert set(sys.modules) == before

    @pytest.mark.parametrize(
        "opcode", ["INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "PERSID", "DUP", "LONG4", "READONLY_BUFFER"]
    )
    def test_instructions_that_no_tensor_needs(self, opcode, tmp_path):
        code = pickletools.code2op
        (op,) = [one for one in code.values() if one.name == opcode]
        argument = {"INST": b"os\nsystem\n", "EXT1": b"\x01", "PERSID": b"0\n", "LONG4": b"\x00\x00\x00\x00"}
        program = b"\x80\x02" + op.code.encode("latin-1") + argument.get(opcode, b"") + b"."
        with pytest.raises(InputError, match=f"has the instruction {opcode}, which no tensor needs"):
            read_torch(archive(tmp_path / "m.ckpt", program))

    def _tensor(self, *, shape, strides, offset=0, count=4, content=b"\0" * 16):
        """The program of one tensor, and its storage."""

        def plain(value):
            return pickle.dumps(value, protocol=2)[2:-1]

        storage = b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("0") + plain("cpu") + plain(count) + b"tQ"
        call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain(offset) + plain(shape) + plain(strides)
        return b"\x80\x02}" + plain("a") + call + b"\x89NtRs.", [content]

    def test_one_that_is_well(self, tmp_path):
        program, storages = self._tensor(shape=(2, 2), strides=(2, 1), content=np.arange(4, dtype="f4").tobytes())
        found = read_torch(archive(tmp_path / "m.ckpt", program, storages))
        np.testing.assert_array_equal(found["a"].load(), [[0, 1], [2, 3]])

    @pytest.mark.parametrize(
        "lie",
        [
            {"shape": (2, 3), "strides": (3, 1)},
            {"shape": (2, 2), "strides": (2, 1), "offset": 1},
            {"shape": (2, 2), "strides": (2, 1), "offset": -1},
            {"shape": (2, 2), "strides": (-2, 1)},
            {"shape": (1 << 20, 1 << 20), "strides": (0, 0)},
            {"shape": (1 << 62, 1 << 62), "strides": (1, 1)},
            {"shape": (2, 2), "strides": (2,)},
            {"shape": (4,), "strides": (1,), "count": 1 << 30},
            {"shape": (4.0,), "strides": (1,)},
            {"shape": (4,), "strides": (1,), "content": b"\0" * 15},
        ],
    )
    def test_tensors_that_reach_beyond_their_bytes(self, lie, tmp_path):
        program, storages = self._tensor(**lie)
        with pytest.raises(InputError, match="m.ckpt is broken") as caught:
            read_torch(archive(tmp_path / "m.ckpt", program, storages))
        assert "\n" not in str(caught.value)

    def test_many_tensors_of_the_same_bytes(self, tmp_path):
        program, storages = self._tensor(shape=(1000,), strides=(1,), count=1000, content=b"\0" * 4000)
        inner = program[program.index(b"c") : -2]
        names = b"".join(b"X\x05\x00\x00\x00" + f"{n:05}".encode() + inner for n in range(300))
        with pytest.raises(InputError, match="tensors have more than 4 times the bytes"):
            read_torch(archive(tmp_path / "m.ckpt", b"\x80\x02}(" + names + b"u.", storages))

    @pytest.mark.parametrize(
        "program",
        [
            b"",
            b".",
            b"\x80\x02",
            b"\x80\x02}",
            b"garbage",
            b"\x80\x02(u.",
            b"\x80\x02}u.",
            b"\x80\x02R.",
            b"\x80\x02h\x00.",
            b"\x80\x02X\xff\xff\xff\x7fa.",
            b"\x80\x02Q.",
            b"\x80\x02K\x01Q.",
            b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00sctorch\nFloatStorage\n)R.",
        ],
    )
    def test_programs_that_are_none(self, program, tmp_path):
        with pytest.raises(InputError, match="m.ckpt is broken"):
            read_torch(archive(tmp_path / "m.ckpt", program))

    def test_a_dictionary_within_itself(self, tmp_path):
        program = b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s."
        assert read_torch(archive(tmp_path / "m.ckpt", program)) == {}

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"compress": zipfile.ZIP_DEFLATED}, "is compressed"), ({"byteorder": b"big"}, "are big-endian")],
    )
    def test_archives_of_other_makers(self, options, message, tmp_path):
        with pytest.raises(InputError, match=message):
            read_torch(archive(tmp_path / "m.ckpt", pickle.dumps({}, protocol=2), **options))

    @pytest.mark.parametrize("content", [b"", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"PK\x03\x04" + 80 * b"\0"])
    def test_what_is_no_archive(self, content, tmp_path):
        (tmp_path / "m.ckpt").write_bytes(content)
        with pytest.raises(InputError, match=r"no zip archive, as PyTorch writes since 1\.6"):
            read_torch(tmp_path / "m.ckpt")

    def test_a_program_without_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr("dreambooth_jax.weights.torch_files.LONGEST_PICKLE", 1000)
        with pytest.raises(InputError, match=r"data\.pkl has 2000 bytes, more than 1000"):
            read_torch(archive(tmp_path / "m.ckpt", b"\0" * 2000))

    @given(data=st.data())
    @settings(max_examples=150, deadline=None, database=None)
    def test_whatever_is_changed_it_is_read_or_refused(self, data, tmp_path_factory):
        program, storages = self._tensor(shape=(2, 2), strides=(2, 1))
        file = tmp_path_factory.getbasetemp() / "changed.ckpt"
        content = bytearray(archive(file, program, storages).read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            leaves = read_torch(file)
        except InputError as error:
            leaves, message = {}, str(error)
            assert "\n" not in message
        for leaf in leaves.values():
            assert leaf.load().shape == leaf.shape
