# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of adapters: what is written is read again, bit for bit; what they say of themselves; what is refused."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters import Module, read_adapter, write_adapter
from dreambooth_jax.weights.adapters.hashes import sshs_hashes
from dreambooth_jax.weights.adapters.metadata import base_metadata, network_metadata
from dreambooth_jax.weights.files import read_header
from tests.weights.adapters.trees import dora_scale, lora_tensors

KERNELS = {
    "conv_in": (3, 3, 4, 6),
    "mid_block/attentions_0/proj_in": (1, 1, 6, 8),
    "mid_block/attentions_0/transformer_blocks_0/attn1/to_out_0": (8, 5),
}
TEXT = {"text_model/encoder/layers_1/mlp/fc1": (6, 7)}
SHAPES = {"unet": KERNELS, "text_encoder": TEXT}


def tree(method="lora", axis="output", alpha=2.0, rank=3):
    """network -> path -> module."""
    r = np.random.default_rng(0)
    found = {}
    for network, shapes in SHAPES.items():
        for path, shape in shapes.items():
            tensors = lora_tensors(shape, rank=rank, alpha=alpha, r=r)
            if method == "dora":
                tensors["dora_scale"] = dora_scale(r.normal(size=shape), axis, r)
            found.setdefault(network, {})[path] = Module(method, tensors)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for network, layers in expected.items():
        assert found[network].keys() == layers.keys()
        for path, module in layers.items():
            other = found[network][path]
            assert other.method == module.method
            assert other.tensors.keys() == module.tensors.keys(), path
            for name, tensor in module.tensors.items():
                assert other.tensors[name].shape == np.shape(tensor), (path, name)
                np.testing.assert_array_equal(other.tensors[name], tensor, err_msg=f"{path}/{name}")


ROUND_TRIPS = [("kohya", "lora", ""), ("peft", "lora", ""), ("kohya", "dora", "input"), ("peft", "dora", "output")]


class TestRoundTrip:
    @pytest.mark.parametrize(("dialect", "method", "axis"), ROUND_TRIPS)
    def test_a_tree_comes_back(self, tmp_path, dialect, method, axis):
        expected = tree(method, axis or "output", alpha=11.3137)
        write_adapter(tmp_path / "a.safetensors", expected, dialect=dialect)
        found = read_adapter(tmp_path / "a.safetensors")
        assert_same(found.networks, expected)
        assert found.dialects == {dialect}

    @pytest.mark.parametrize(("dialect", "method", "axis"), ROUND_TRIPS)
    def test_a_file_comes_back(self, tmp_path, dialect, method, axis):
        one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
        write_adapter(one, tree(method, axis or "output"), dialect=dialect, dtype="float16", metadata={"ss_seed": "5"})
        found = read_adapter(one)
        own = {name: text for name, text in found.metadata.items() if name == "ss_seed"}
        write_adapter(two, found.networks, dialect=dialect, dtype="float16", metadata=own)
        assert one.read_bytes() == two.read_bytes()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_numbers_are_rounded_once_and_alphas_never(self, tmp_path, dtype):
        write_adapter(tmp_path / "a.safetensors", tree(alpha=11.3137), dtype=dtype)
        module = read_adapter(tmp_path / "a.safetensors").networks["unet"]["conv_in"]
        expected = tree(alpha=11.3137)["unet"]["conv_in"].tensors
        np.testing.assert_array_equal(module.tensors["lora_up"], expected["lora_up"].astype(dtype))
        assert module.tensors["lora_up"].dtype == np.dtype(dtype)
        assert module.tensors["alpha"] == np.float32(11.3137)

    def test_a_layer_of_its_own_rank_and_alpha_in_the_form_of_peft(self, tmp_path):
        expected = tree()
        r = np.random.default_rng(1)
        expected["unet"]["conv_in"] = Module("lora", lora_tensors(KERNELS["conv_in"], rank=5, alpha=0.3, r=r))
        write_adapter(tmp_path / "a.safetensors", expected, dialect="peft")
        assert_same(read_adapter(tmp_path / "a.safetensors").networks, expected)

    def test_lycoris_tensors_come_back(self, tmp_path):
        r = np.random.default_rng(0)

        def random(**shapes):
            return {name: np.asarray(r.normal(size=shape), np.float32) for name, shape in shapes.items()}

        loha = random(hada_w1_a=(3, 8), hada_w1_b=(6, 3), hada_w2_a=(3, 8), hada_w2_b=(6, 3), alpha=())
        tucker = random(hada_t1=(3, 3, 2, 2), hada_t2=(3, 3, 2, 2))
        expected = {
            "unet": {
                "mid_block/attentions_0/proj_in": Module("loha", loha),
                "conv_in": Module("loha", loha | tucker),
                "mid_block/resnets_0/conv1": Module("lokr", random(lokr_w1=(2, 2), lokr_w2=(3, 3, 4, 4), alpha=())),
                "mid_block/resnets_0/conv2": Module(
                    "lokr", random(lokr_w1_a=(2, 2), lokr_w1_b=(2, 2), lokr_w2_a=(2, 9), lokr_w2_b=(2, 2), alpha=())
                ),
                "mid_block/resnets_0/norm1": Module("norm", random(w_norm=(8,), b_norm=(8,))),
                "mid_block/resnets_0/time_emb_proj": Module("diff", random(diff=(8, 4), diff_b=(4,))),
                "mid_block/resnets_1/conv1": Module("oft", random(oft_blocks=(2, 4, 4), alpha=())),
                "mid_block/resnets_1/conv2": Module("boft", random(oft_blocks=(4, 4, 2, 2), alpha=())),
                "mid_block/resnets_1/time_emb_proj": Module(
                    "glora", random(a1=(2, 4), a2=(4, 2), b1=(2, 8), b2=(4, 2), alpha=())
                ),
                "conv_out": Module("ia3", random(weight=(4,), on_input=())),
            }
        }
        write_adapter(tmp_path / "a.safetensors", expected)
        assert_same(read_adapter(tmp_path / "a.safetensors").networks, expected)


class TestAlpha:
    """What scales a product, where a file of PEFT's form says it."""

    def write(self, path, settings, r=None, **more):
        rank = r or 4
        arrays = {
            "unet.conv_in.lora_A.weight": np.ones((rank, 4, 3, 3), np.float32),
            "unet.conv_in.lora_B.weight": np.ones((6, rank, 1, 1), np.float32),
            **more,
        }
        texts = {} if settings is None else {"lora_adapter_metadata": json.dumps(settings)}
        save_file(arrays, path, metadata={"format": "pt", **texts})
        return read_adapter(path).networks["unet"]["conv_in"].tensors

    @pytest.mark.parametrize(
        ("settings", "alpha"),
        [
            ({"unet.r": 4, "unet.lora_alpha": 2}, 2),
            ({"unet.lora_alpha": 2, "unet.alpha_pattern": {"conv_in": 8}}, 8),
            ({"unet.lora_alpha": 2, "unet.alpha_pattern": {"^conv_in": 8}}, 8),
            ({"unet.lora_alpha": 2, "unet.alpha_pattern": {"in": 8}}, 2),
            ({"unet.lora_alpha": 3, "unet.use_rslora": True}, 6),
        ],
    )
    def test_in_the_metadata(self, tmp_path, settings, alpha):
        assert self.write(tmp_path / "a.safetensors", settings)["alpha"] == alpha

    def test_as_a_tensor_it_counts_before(self, tmp_path):
        alpha = {"unet.conv_in.alpha": np.asarray(7, np.float32)}
        assert self.write(tmp_path / "a.safetensors", {"unet.lora_alpha": 2}, **alpha)["alpha"] == 7

    def test_as_an_array_of_one_number(self, tmp_path):
        """As some tools write it."""
        for name, alpha in (("a", np.full(1, 7, np.float32)), ("b", np.full(1, 7))):
            found = self.write(tmp_path / f"{name}.safetensors", None, **{"unet.conv_in.alpha": alpha})["alpha"]
            assert (found, found.shape) == (7, ())

    def test_nowhere_it_is_the_rank(self, tmp_path):
        assert "alpha" not in self.write(tmp_path / "a.safetensors", None)
        assert "alpha" not in self.write(tmp_path / "b.safetensors", {"text_encoder.lora_alpha": 3})

    @pytest.mark.parametrize("settings", [{"unet.lora_alpha": "x"}, {"unet.alpha_pattern": [1]}])
    def test_broken_settings_are_one_line(self, tmp_path, settings):
        with pytest.raises(InputError, match=r"lora_adapter_metadata of .* has no alpha for unet/conv_in"):
            self.write(tmp_path / "a.safetensors", settings)


class TestMetadata:
    def test_hashes_are_those_of_the_library(self, tmp_path):
        """As sd-scripts makes them: of the bytes that safetensors saves with ss_ metadata alone."""
        networks = tree()
        big = lora_tensors((640, 700), rank=300, alpha=1, r=np.random.default_rng(0))
        networks["unet"]["mid_block/resnets_0/time_emb_proj"] = Module("lora", big)
        texts = {"ss_seed": "5", "ss_tag_frequency": json.dumps({"photos": {"sks “dog”": 5}}), "modelspec.title": "x"}
        for dtype in ("float32", "float16"):
            file = tmp_path / f"{dtype}.safetensors"
            write_adapter(file, networks, dtype=dtype, metadata=texts)
            with safe_open(file, "np") as opened:
                said = opened.metadata()
            saved = safetensors.numpy.save(load_file(file), {k: v for k, v in texts.items() if k.startswith("ss_")})
            begin = 8 + int.from_bytes(saved[:8], "little")
            data = file.read_bytes()
            whole = hashlib.sha256(saved[begin:]).hexdigest()
            assert (
                said["sshs_model_hash"]
                == whole
                == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
            )
            assert said["sshs_legacy_hash"] == hashlib.sha256(saved[0x100000:0x110000]).hexdigest()[:8]
            assert len(saved) > 0x110000 or dtype == "float16"
            assert said["modelspec.hash_sha256"] == f"0x{whole}"
            assert texts.items() <= said.items()

    def test_a_small_file_has_the_legacy_hash_of_nothing(self, tmp_path):
        write_adapter(tmp_path / "a.safetensors", tree())
        leaves, metadata = read_header(tmp_path / "a.safetensors")
        assert metadata["sshs_legacy_hash"] == hashlib.sha256(b"").hexdigest()[:8]
        assert sshs_hashes(leaves, metadata)["sshs_model_hash"] == metadata["sshs_model_hash"]

    def test_rank_and_alpha(self):
        networks = tree(alpha=2.0)
        r = np.random.default_rng(1)
        networks["unet"]["conv_in"] = Module("lora", lora_tensors(KERNELS["conv_in"], rank=5, alpha=1.5, r=r))
        said = network_metadata(networks)
        assert said["ss_network_module"] == "networks.lora"
        assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("3", "2")
        assert json.loads(said["ss_network_args"]) == {"conv_dim": "5", "conv_alpha": "1.5"}
        said = network_metadata(tree("dora", "input"))
        assert said["ss_network_module"] == "lycoris.kohya"
        arguments = json.loads(said["ss_network_args"])
        assert arguments["algo"] == "lora"
        assert (arguments["dora_wd"], arguments["wd_on_output"]) == ("True", "False")

    @pytest.mark.parametrize(
        ("act", "predicts", "expected"),
        [
            ("quick_gelu", "epsilon", ("False", "sd_v1")),
            ("gelu", "v_prediction", ("True", "sd_v2_v")),
            ("gelu", "epsilon", ("True", "sd_v2")),
        ],
    )
    def test_base_model(self, act, predicts, expected):
        said = base_metadata({"text_encoder": {"hidden_act": act}}, {"prediction_type": predicts})
        assert (said["ss_v2"], said["ss_base_model_version"]) == expected


class TestRefused:
    def test_dora_in_the_dialect_whose_readers_take_the_other_axis(self, tmp_path):
        with pytest.raises(InputError, match="along the output.*format=peft"):
            write_adapter(tmp_path / "a.safetensors", tree("dora", "output"))
        with pytest.raises(InputError, match="along the input.*format=kohya"):
            write_adapter(tmp_path / "a.safetensors", tree("dora", "input"), dialect="peft")
        assert not list(tmp_path.iterdir())

    def test_what_peft_has_no_form_for(self, tmp_path):
        loha = Module("loha", {name: np.ones((2, 2), np.float32) for name in ("hada_w1_a", "hada_w1_b")})
        with pytest.raises(InputError, match="unet/conv_in is changed by loha.*write kohya's"):
            write_adapter(tmp_path / "a.safetensors", {"unet": {"conv_in": loha}}, dialect="peft")

    def test_numbers_that_do_not_fit(self, tmp_path):
        networks = tree()
        networks["unet"]["conv_in"].tensors["lora_up"][:] = 1e6
        with pytest.raises(InputError, match="unet/conv_in/lora_up has values beyond float16"):
            write_adapter(tmp_path / "a.safetensors", networks, dtype="float16")
        networks["unet"]["conv_in"].tensors["lora_up"][:] = np.nan
        with pytest.raises(InputError, match="not finite"):
            write_adapter(tmp_path / "a.safetensors", networks)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["a", "a.pt", "a.safetensors/"])
    def test_names_of_files(self, tmp_path, name):
        (tmp_path / "a.safetensors").mkdir()
        with pytest.raises(InputError, match="an adapter is one file, whose name ends in .safetensors"):
            write_adapter(tmp_path / name, tree())

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x.weight": (2, 2)}, "is no adapter: its arrays are called x.weight"),
            ({}, "is no adapter: its arrays are called nothing"),
            ({"lora_unet_conv_in.lora_down.weight": (2, 2)}, "has lora_down of unet/conv_in: together that is no"),
            (
                {"lora_unet_conv_in.diff": (2, 2), "other": (1,)},
                "has 1 arrays that no adapter has, such as other: dreambooth-jax check",
            ),
            (  # as a denoiser of one layer per block counts blocks
                {f"lora_unet_{name}.diff": (2, 2) for name in ("input_blocks_1_0_in_layers_2", "input_blocks_2_0_op")},
                "has 1 arrays that no adapter has, such as lora_unet_input_blocks_2_0_op.diff",
            ),
        ],
    )
    def test_files_that_are_none(self, tmp_path, arrays, message):
        save_file({name: np.ones(shape, np.float32) for name, shape in arrays.items()}, tmp_path / "a.safetensors")
        with pytest.raises(InputError, match=message):
            read_adapter(tmp_path / "a.safetensors")

    def test_arrays_that_are_damaged(self, tmp_path):
        save_file({"lora_unet_conv_in.diff": np.full((2, 2), np.nan, np.float32)}, tmp_path / "a.safetensors")
        with pytest.raises(InputError, match="conv_in.diff has values that are not finite"):
            read_adapter(tmp_path / "a.safetensors")
        save_file({"lora_unet_conv_in.diff": np.ones((2, 2), np.int8)}, tmp_path / "a.safetensors")
        with pytest.raises(InputError, match="conv_in.diff is int8, not real"):
            read_adapter(tmp_path / "a.safetensors")
        save_file({"lora_unet_conv_in.weight": np.ones(4, np.float32), "lora_unet_conv_in.on_input": np.asarray(1)},
                  tmp_path / "a.safetensors")  # fmt: skip
        assert read_adapter(tmp_path / "a.safetensors").networks["unet"]["conv_in"].tensors["on_input"] == 1
        with pytest.raises(InputError, match="no such file"):
            read_adapter(tmp_path / "b.safetensors")
