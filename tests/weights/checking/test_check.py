# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is told of files: adapters of the real size, every other kind, and damaged ones."""

import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.cli import main
from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters import Module, write_adapter
from dreambooth_jax.weights.adapters.dialects import read_key
from dreambooth_jax.weights.checking import as_text, check_file, readers
from dreambooth_jax.weights.checking.layers import change_of
from dreambooth_jax.weights.checking.made_for import layers_of_base
from tests.weights.adapters.test_names import kohya_targets
from tests.weights.adapters.test_names import layers as layers  # a fixture
from tests.weights.adapters.test_readers import REAL, comfyui
from tests.weights.adapters.trees import lora_tensors
from tests.weights.folders import FIXTURES
from tests.weights.originals import Original, OriginalXL

TOOLS = ("A1111", "Forge", "ComfyUI", "diffusers", "dreambooth-jax")


def few(layers, **tensors):
    """Of one transformer of each network: 12 and 6 layers."""
    whole = {"unet": "mid_block", "text_encoder": "layers_0/"}
    return sd15(
        {n: {path: shape for path, shape in layers[n].items() if part in path} for n, part in whole.items()}, **tensors
    )


def sd15(layers, **tensors):
    """An adapter of all that sd-scripts change by default, of rank 1."""
    r = np.random.default_rng(0)
    return {
        network: {
            path: Module(
                "dora" if tensors else "lora",
                lora_tensors(layers[network][path], rank=1, alpha=1.0, r=r)
                | {name: make(layers[network][path]) for name, make in tensors.items()},
            )
            for path in paths
        }
        for network, paths in kohya_targets(layers).items()
    }


def tool(report, name):
    return next(one for one in report.tools if one.tool == name)


class TestAdapters:
    def test_kohya_is_loaded_by_all(self, layers, tmp_path):
        write_adapter(tmp_path / "a.safetensors", sd15(layers))
        report = check_file(tmp_path / "a.safetensors")
        assert report.kind == "an adapter: LoRA"
        assert report.base == "Stable Diffusion 1"
        assert {one.network: one.layers for one in report.networks} == {"unet": 192, "text_encoder": 72}
        assert all(one.methods == {"lora": one.layers} for one in report.networks)
        assert all((one.ranks, one.alphas) == ((1,), (1.0,)) for one in report.networks)
        assert not report.damage
        assert not report.ways_out
        for name in TOOLS:
            assert (tool(report, name).loads, tool(report, name).notes) == ("all 264 layers", ())
        assert readers(report) == "A1111, Forge, ComfyUI and diffusers load it"

    def test_what_comfyui_drops_of_the_form_of_peft(self, layers, tmp_path):
        """Attention of the denoiser, which it calls ...processor.to_q: eight layers of each of 16 transformers."""
        write_adapter(tmp_path / "a.safetensors", sd15(layers), dialect="peft")
        report = check_file(tmp_path / "a.safetensors")
        assert tool(report, "ComfyUI").loads == f"{264 - 16 * 8} of 264 layers"
        assert "leaves out 128 layers" in tool(report, "ComfyUI").notes[0]
        # which leaves files alone of which it does not know more than a dozen names
        assert tool(report, "Forge").loads == "nothing"
        assert f"does not know {128 * 2} names" in tool(report, "Forge").notes[0]
        assert tool(report, "A1111").loads == "nothing"
        assert tool(report, "diffusers").loads == tool(report, "dreambooth-jax").loads == "all 264 layers"
        assert readers(report) == "diffusers loads it"
        assert report.ways_out == (f"dreambooth-jax export {tmp_path}/a.safetensors OUT.safetensors format=kohya",)

    def test_the_way_out_leads_out(self, layers, tmp_path):
        write_adapter(tmp_path / "a.safetensors", few(layers), dialect="peft")
        (way_out,) = check_file(tmp_path / "a.safetensors").ways_out
        assert main([word.replace("OUT", f"{tmp_path}/b") for word in way_out.split()[1:]]) == 0
        assert all(one.loads == "all 18 layers" for one in check_file(tmp_path / "b.safetensors").tools)

    @pytest.mark.parametrize(
        ("dialect", "shape_of", "notes"),
        [
            ("kohya", lambda s: (*[1] * (len(s) - 2), s[-2], 1), {"diffusers": "without its magnitudes"}),
            (
                "peft",
                lambda s: (*[1] * (len(s) - 1), s[-1]),
                {"ComfyUI": "without its magnitudes", "A1111": "leaves out 18"},
            ),
        ],
    )
    def test_dora(self, layers, tmp_path, dialect, shape_of, notes):
        networks = few(layers, dora_scale=lambda shape: np.ones(shape_of(shape), np.float32))
        write_adapter(tmp_path / "a.safetensors", networks, dialect=dialect)
        report = check_file(tmp_path / "a.safetensors")
        assert report.kind == "an adapter: DoRA"
        assert all(one.change is None for one in report.networks)
        for name, note in notes.items():
            assert note in " ".join(tool(report, name).notes)
        assert not tool(report, "dreambooth-jax").notes
        assert not tool(report, "A1111" if dialect == "kohya" else "diffusers").notes
        assert any("rank=16" in way for way in report.ways_out)

    def test_dora_along_the_output_in_kohyas_names(self, layers, tmp_path):
        networks = few(layers)
        write_adapter(tmp_path / "a.safetensors", networks)
        arrays = load_file(tmp_path / "a.safetensors")
        ups = [name for name in arrays if name.endswith("lora_up.weight")]
        for name in ups:
            shape = (arrays[name].shape[0], *[1] * (arrays[name].ndim - 1))
            arrays[name.replace("lora_up.weight", "dora_scale")] = np.ones(shape, np.float32)
        save_file(arrays, tmp_path / "b.safetensors")
        report = check_file(tmp_path / "b.safetensors")
        assert report.facts["magnitudes"] == "along the output"
        for name in ("A1111", "Forge", "ComfyUI"):
            assert tool(report, name).notes == (
                "draws DoRA otherwise: its magnitudes are along the output (18 layers)",
            )

    def test_alpha_that_stands_in_the_metadata_alone(self, tmp_path):
        module = Module("lora", lora_tensors((8, 6), rank=4, alpha=1.0, r=np.random.default_rng(0)))
        write_adapter(tmp_path / "a.safetensors", {"unet": {"mid_block/attentions_0/proj_in": module}}, dialect="peft")
        report = check_file(tmp_path / "a.safetensors")
        assert "another strength" in tool(report, "ComfyUI").notes[0]
        assert report.networks[0].alphas == (1.0,)
        assert not tool(report, "diffusers").notes

    def test_lycoris(self, tmp_path):
        loha = {name: np.ones((2, 8), np.float32) for name in ("hada_w1_a", "hada_w2_a")}
        loha |= {name: np.ones((6, 2), np.float32) for name in ("hada_w1_b", "hada_w2_b")}
        changed = {"mid_block/attentions_0/proj_in": Module("loha", loha)}
        changed["mid_block/attentions_0/proj_out"] = Module("ia3", {"weight": np.ones(8, np.float32)})
        write_adapter(tmp_path / "a.safetensors", {"unet": changed})
        report = check_file(tmp_path / "a.safetensors")
        assert report.networks[0].methods == {"loha": 1, "ia3": 1}
        assert tool(report, "A1111").loads == "all 2 layers"
        assert tool(report, "ComfyUI").notes == ("leaves out 1 layers: it has no ia3",)
        assert tool(report, "diffusers").loads == "nothing"
        assert readers(report) == "A1111 loads it"

    def test_what_nobody_else_has(self, tmp_path):
        write_adapter(tmp_path / "a.safetensors", {"unet": {"conv_in": Module("svdiff", {"delta": np.ones(3)})}})
        report = check_file(tmp_path / "a.safetensors")
        assert report.kind == "an adapter: SVDiff"
        assert tool(report, "dreambooth-jax").loads == "all 1 layers"
        assert readers(report) == "no other tool loads all of it"
        assert "rank=16" in report.ways_out[0]

    @pytest.mark.parametrize("version", [1, 2])
    def test_the_base_by_widths(self, tmp_path, version):
        r = np.random.default_rng(0)
        width = {1: 768, 2: 1024}[version]
        path = "mid_block/attentions_0/transformer_blocks_0/attn2/to_k"
        module = Module("lora", lora_tensors((width, 12), rank=2, alpha=1, r=r))
        write_adapter(tmp_path / "a.safetensors", {"unet": {path: module}})
        assert check_file(tmp_path / "a.safetensors").base == f"Stable Diffusion {version}"

    def test_names_of_xl(self, tmp_path):
        down = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.ones((2, 1280), np.float32)}
        up = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": np.ones((4, 2), np.float32)}
        save_file(down | up, tmp_path / "a.safetensors")
        report = check_file(tmp_path / "a.safetensors")
        assert report.base == "Stable Diffusion XL"
        assert report.networks[0].network == "text_encoder_2"


@pytest.mark.parametrize("method", ["lora", "loha", "lokr", "diff"])
@pytest.mark.parametrize("shape", [(8, 6), (3, 3, 8, 6)])
def test_the_size_of_a_change_is_that_of_the_dense_one(method, shape):
    r = np.random.default_rng(0)

    def random(*shape):
        return r.normal(size=shape).astype(np.float32)

    window = shape[0] * shape[1] if len(shape) == 4 else 1
    tensors = {
        "lora": lora_tensors(shape, rank=3, alpha=2.0, r=r),
        "loha": {
            **{f"hada_w{n}_a": random(3, 6) for n in (1, 2)},
            **{f"hada_w{n}_b": random(8 * window, 3) for n in (1, 2)},
            "alpha": np.float32(2),
        },
        "lokr": {
            "lokr_w1": random(2, 2),
            "lokr_w2_a": random(2, 3),
            "lokr_w2_b": random(4 * window, 2),
            "alpha": np.float32(1),
        },
        "diff": {"diff": random(*shape)},
    }[method]
    kernel, given = jax.tree.map(jnp.asarray, (np.zeros(shape, np.float32), tensors))
    dense = np.linalg.norm(np.asarray(METHODS[method].kernel(kernel, given)))
    assert change_of(Module(method, tensors)) == pytest.approx(dense, rel=1e-5)
    assert dense > 0.1


class TestDamage:
    @pytest.fixture
    def arrays(self, tmp_path):
        r = np.random.default_rng(0)
        changed = {
            path: Module("lora", lora_tensors((8, 6), rank=4, alpha=4.0, r=r)) for path in ("conv_in", "conv_out")
        }
        write_adapter(tmp_path / "whole.safetensors", {"unet": changed})
        return load_file(tmp_path / "whole.safetensors")

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            (
                "lora_down.weight",
                lambda a: a * np.nan,
                "unet/conv_in: lora_down has 32 of 32 values that are not finite",
            ),
            ("lora_up.weight", np.zeros_like, "unet/conv_in: lora_up is zero, so that it changes nothing"),
            ("alpha", np.zeros_like, "unet/conv_in: alpha is zero"),
            (
                "lora_up.weight",
                lambda a: a[:, :2],
                "unet/conv_in: lora_down has 4 columns, lora_up 2 rows: the ranks differ",
            ),
            ("lora_up.weight", lambda a: None, "unet/conv_in has alpha, lora_down: together that is nothing known"),
            ("other", lambda a: np.ones(1, np.float32), "lora_unet_conv_in.other belongs to no layer"),
            ("lora_down.weight", lambda a: np.ones(a.shape, np.int8), "unet/conv_in: lora_down is int8, not real"),
        ],
    )
    def test_of_an_adapter(self, arrays, tmp_path, name, change, message):
        key = f"lora_unet_conv_in.{name}"
        changed = change(arrays.get(key))
        arrays.pop(key, None)
        save_file(
            arrays | ({} if changed is None else {key: np.ascontiguousarray(changed)}), tmp_path / "a.safetensors"
        )
        (damage,) = check_file(tmp_path / "a.safetensors").damage
        assert message in damage

    def test_a_hash_that_is_not_that_of_the_arrays(self, tmp_path, arrays):
        data = bytearray((tmp_path / "whole.safetensors").read_bytes())
        assert not check_file(tmp_path / "whole.safetensors").damage
        data[-1] ^= 1
        (tmp_path / "whole.safetensors").write_bytes(data)
        assert "others than when its hash was taken" in check_file(tmp_path / "whole.safetensors").damage[0]

    def test_of_another_file(self, tmp_path):
        save_file({"emb_params": np.full((2, 768), np.nan, np.float32)}, tmp_path / "a.safetensors")
        with pytest.raises(InputError, match="is nothing that is known"):
            check_file(tmp_path / "a.safetensors")
        arrays = Original().arrays()
        name = next(name for name in arrays if name.endswith("conv_in.weight"))
        arrays[name][0] = np.inf
        save_file(arrays, tmp_path / "b.safetensors")
        assert f"{name} has" in check_file(tmp_path / "b.safetensors").damage[0]


def original(**changes):
    return lambda path: Original(**changes).write(path)


def arrays(**shapes):
    found = {name.replace("__", "."): np.ones(shape, np.float32) for name, shape in shapes.items()}
    return lambda path: save_file(found, path)


@pytest.mark.parametrize(
    ("write", "kind", "base"),
    [
        (original(), "a whole Stable Diffusion in a single file", "Stable Diffusion 1, which predicts epsilon"),
        (original(in_channels=9), "a whole Stable Diffusion", "Stable Diffusion 1, inpainting, which predicts epsilon"),
        (original(version=2), "a whole Stable Diffusion", "Stable Diffusion 2, which predicts epsilon"),
        (arrays(sks=(2, 768)), "a new word (textual inversion), in the form of diffusers", "Stable Diffusion 1"),
        (arrays(sks=(1024,)), "a new word (textual inversion), in the form of diffusers", "Stable Diffusion 2"),
        (arrays(emb_params=(2, 768)), "a new word (textual inversion), in the form of a1111", "Stable Diffusion 1"),
        (arrays(clip_l=(1, 768), clip_g=(1, 1280)), "in the form of xl", "Stable Diffusion XL"),
        (arrays(a=(1, 768), b=(2, 768)), "new words (textual inversion), in the form of several", "Stable Diffusion 1"),
        (arrays(encoder__down__0=(1,), decoder__up__0=(1,)), "an autoencoder in the layout of the original code", None),
        (arrays(encoder__down_blocks__0=(1,), decoder__up_blocks__0=(1,)), "an autoencoder of diffusers", None),
        (arrays(control_model__x=(1,)), "a ControlNet in the layout of the original code", None),
        (arrays(controlnet_cond_embedding__x=(1,), down_blocks__x=(1,)), "a ControlNet of diffusers", None),
        (arrays(image_proj__proj=(1,), ip_adapter__1=(1,)), "an IP-Adapter", None),
        (arrays(down_blocks__0=(1,), conv_in__weight=(1,)), "the denoiser of a diffusers folder", None),
        (arrays(double_blocks__0=(1,)), "a Flux", None),
        (OriginalXL().write, "a whole Stable Diffusion XL", "Stable Diffusion XL, which predicts epsilon"),
    ],
)
def test_other_kinds(tmp_path, write, kind, base):
    write(tmp_path / "a.safetensors")
    report = check_file(tmp_path / "a.safetensors")
    assert kind in report.kind
    assert report.base == base
    assert any(one.tool == "dreambooth-jax" for one in report.tools)


def test_files_of_the_package():
    report = check_file(FIXTURES.parents[1] / "dreambooth_jax/embedded/vae/diffusion_pytorch_model.safetensors")
    assert report.kind == "an autoencoder of diffusers"
    assert not report.damage


class TestCommandLine:
    def test_text_and_json(self, layers, tmp_path, capsys):
        write_adapter(tmp_path / "a.safetensors", few(layers), metadata={"ss_seed": "5", "modelspec.title": "dog"})
        assert main(["check", f"{tmp_path}/a.safetensors"]) == 0
        text = capsys.readouterr().out
        assert text.strip() == as_text(check_file(tmp_path / "a.safetensors"))
        for part in ("LoRA", "Stable Diffusion 1", "12 layers", "rank 1", "‖ΔW‖", "modelspec.title = dog", *TOOLS):
            assert part in text
        assert main(["check", f"{tmp_path}/a.safetensors", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["metadata"]["ss_seed"] == "5"
        assert Counter(one["layers"] for one in found["networks"]) == {12: 1, 6: 1}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no such file"),
            (b"", "is broken"),
            (b"\0\0\0", "is broken"),
            (b"{}", "is broken"),
            (b"\x89PNG\r\n\x1a\n" + bytes(40), "is broken"),
            (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        ],
    )
    def test_what_is_no_such_file_is_one_line(self, tmp_path, capsys, content, message):
        for suffix in (".safetensors", ".pt"):
            file = tmp_path / f"a{suffix}"
            if content is not None:
                file.write_bytes(content)
            assert main(["check", str(file)]) == 2
            lines = capsys.readouterr().err.strip().splitlines()
            assert len(lines) == 1
            assert message in lines[0]

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"{}", "it is a text"),
            ("a photo of sks dog, sehr schön ".encode() * 99, "it is a text"),
            (b"\x89PNG\r\n\x1a\n" + bytes(40), "it is a PNG picture"),
            (b"PK\x03\x04" + bytes(40), "it is a zip archive, as PyTorch's own files are"),
            (bytes([255] * 40), "truncated or not a safetensors file"),
        ],
    )
    def test_what_a_file_is_that_holds_no_weights(self, tmp_path, content, what):
        for name in ("a.safetensors", "a.png"):
            (tmp_path / name).write_bytes(content)
            is_picture = (name, what) == ("a.png", "it is a PNG picture")  # which may hold a new word
            message = "cannot be read as a PNG picture" if is_picture else rf"is broken \({what}"
            with pytest.raises(InputError, match=f"{name} {message}"):
                check_file(tmp_path / name)

    def test_a_folder_is_one_line(self, tmp_path, capsys):
        assert main(["check", str(tmp_path)]) == 2
        assert "is a folder: say which file of it" in capsys.readouterr().err


def test_every_name_of_a_whole_model_is_no_name_of_an_adapter():
    assert not any(read_key(name) for name in Original().shapes())


def test_layers_of_stable_diffusion_1_are_those_that_tools_know(layers):
    """Of our own networks, and of the map that ComfyUI makes."""
    found = layers_of_base("Stable Diffusion 1")
    for network, shapes in layers.items():
        assert found[network].keys() == shapes.keys()
        for path, shape in shapes.items():
            if len(shape) > 1:
                assert found[network][path] == shape[-2:], path
    unet = {n.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_") for n in REAL.shapes()}
    known = comfyui(unet)
    assert {f"lora_unet_{path.replace('/', '_')}" for path in found["unet"]} - known <= {"lora_unet_conv_norm_out"}
