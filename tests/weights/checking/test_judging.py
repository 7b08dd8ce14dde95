# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is told of files that tools take in part or not at all: ours as our reader does; commands only that work."""

import shlex

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreambooth_jax.cli import main
from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters import Module, read_adapter, write_adapter
from dreambooth_jax.weights.checking import check_file
from dreambooth_jax.weights.checking.bases import BASES
from dreambooth_jax.weights.checking.made_for import layers_of_base
from dreambooth_jax.weights.checking.widths import Widths
from dreambooth_jax.weights.modules import parameter_shapes
from tests.weights.adapters.trees import lora_tensors

QUERY = "down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q"
OTHERS = ("A1111", "Forge", "ComfyUI", "diffusers")


def lora(network_and_path, inputs=320, outputs=320):
    """networks of one layer."""
    network, _, path = network_and_path.partition("/")
    return {
        network: {path: Module("lora", lora_tensors((inputs, outputs), rank=4, alpha=2.0, r=np.random.default_rng(0)))}
    }


def written(file, *networks):
    """A file with all of them, in kohya's dialect; its arrays."""
    together = {}
    for one in networks:
        for network, modules in one.items():
            together.setdefault(network, {}).update(modules)
    write_adapter(file, together)
    return load_file(file)


def tools(report):
    return {one.tool: one for one in report.tools}


@pytest.fixture
def arrays(tmp_path):
    return written(tmp_path / "whole.safetensors", lora(f"unet/{QUERY}"), lora("unet/conv_in", 4, 320))


DOWN, UP = (f"lora_unet_{QUERY.replace('/', '_')}.lora_{way}.weight" for way in ("down", "up"))


class TestOurs:
    """The report on us is what our reader says."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda a: {DOWN: np.full_like(a[DOWN], np.nan)},
            lambda a: {DOWN: np.ones(a[DOWN].shape, np.int8)},
            lambda a: {"foo.bar": np.ones(3, np.float32)},
            lambda a: {DOWN: np.ones((3, 320), np.float32)},
            lambda a: {UP: None},
            lambda a: {f"unet.{QUERY.replace('/', '.').replace('_0', '.0')}.lora_A.weight": a[DOWN]},
        ],
        ids=["nan", "int8", "extra", "ranks", "incomplete", "twice"],
    )
    def test_what_the_reader_refuses(self, arrays, tmp_path, change):
        file = tmp_path / "a.safetensors"
        save_file({name: array for name, array in (arrays | change(arrays)).items() if array is not None}, file)
        with pytest.raises(InputError) as refused:
            read_adapter(file)
        report = check_file(file)
        assert tools(report)["dreambooth-jax"].loads == "nothing"
        assert str(refused.value) in tools(report)["dreambooth-jax"].notes[0]
        assert report.damage
        assert not report.ways_out

    def test_nan_and_quantised_numbers_are_said_of_each_tool(self, arrays, tmp_path):
        for array, note in (
            (np.full_like(arrays[DOWN], np.nan), "not all numbers are finite"),
            (arrays[DOWN].astype(np.int8), "whole numbers"),
        ):
            save_file(arrays | {DOWN: array}, tmp_path / "a.safetensors")
            found = tools(check_file(tmp_path / "a.safetensors"))
            assert all(note in found[name].notes[0] for name in OTHERS)

    def test_ranks_that_do_not_meet(self, arrays, tmp_path):
        save_file(arrays | {DOWN: np.ones((3, 320), np.float32)}, tmp_path / "a.safetensors")
        found = tools(check_file(tmp_path / "a.safetensors"))
        assert all(found[name].loads == "1 of 2 layers" for name in ("A1111", "Forge", "ComfyUI"))
        assert found["diffusers"].loads == "nothing"
        with pytest.raises(InputError, match="is broken: of unet/.* the ranks differ"):
            read_adapter(tmp_path / "a.safetensors")


class TestWaysOut:
    def test_incomplete_layers_have_none(self, arrays, tmp_path):
        save_file({name: array for name, array in arrays.items() if name != UP}, tmp_path / "a.safetensors")
        report = check_file(tmp_path / "a.safetensors")
        assert not report.ways_out
        assert all("tensors are missing" in note for tool in report.tools[:4] for note in tool.notes)

    def test_words_in_the_file_can_be_left_out(self, arrays, tmp_path):
        """Of a file whose name has a blank, as a shell takes it."""
        file = tmp_path / "my dog.safetensors"
        save_file(arrays | {"bundle_emb.sks.string_to_param.*": np.ones((1, 768), np.float32)}, file)
        (way_out,) = check_file(file).ways_out
        words = shlex.split(way_out.partition("  ")[0])[1:]
        assert main([word.replace("OUT", f"{tmp_path}/b") for word in words]) == 0
        assert tools(check_file(tmp_path / "b.safetensors"))["diffusers"].loads == "all 2 layers"


class TestLayers:
    def test_that_no_model_has(self, tmp_path):
        written(tmp_path / "a.safetensors", lora("unet/down_blocks_7/attentions_0/proj_in"))
        report = check_file(tmp_path / "a.safetensors")
        assert report.damage == ("no Stable Diffusion has unet/down_blocks_7/attentions_0/proj_in",)
        assert all(tool.loads == "nothing" for tool in report.tools)

    def test_that_contradict_each_other(self, tmp_path):
        inner = "attentions_0/transformer_blocks_0/attn2/to_k"
        text = "text_encoder/text_model/encoder"
        strange = (f"unet/up_blocks_0/{inner}", f"{text}/layers_30/mlp/fc1")
        written(
            tmp_path / "a.safetensors",
            lora(f"unet/down_blocks_1/{inner}", 768, 640),
            lora(strange[0], 768, 1280),
            lora(strange[1], 768, 3072),
            lora(f"{text}/layers_0/self_attn/q_proj", 1024, 1024),
        )
        report = check_file(tmp_path / "a.safetensors")
        assert report.base == "Stable Diffusion 1"
        missing, widths = report.damage
        assert missing.startswith("no Stable Diffusion 1 has ")
        assert all(name in missing for name in strange)
        assert "q_proj takes 1024 channels and gives 1024, that of Stable Diffusion 1 768 and 768" in widths
        assert all(tools(report)[name].loads == "1 of 4 layers" for name in ("A1111", "Forge", "ComfyUI"))
        assert tools(report)["dreambooth-jax"].loads == "nothing"

    def test_xl_is_told_from_its_first_text_encoder_alone(self, tmp_path):
        query = "text_model_encoder_layers_0_self_attn_q_proj"
        for prefix, base in (("lora_te1_", "Stable Diffusion XL"), ("lora_te_", "Stable Diffusion 1")):
            tensors = {"lora_down": np.ones((2, 768), np.float32), "lora_up": np.ones((768, 2), np.float32)}
            save_file({f"{prefix}{query}.{n}.weight": a for n, a in tensors.items()}, tmp_path / "a.safetensors")
            assert check_file(tmp_path / "a.safetensors").base == base


def widths_of(kind, config):
    """path -> widths, of the network itself."""
    shapes = parameter_shapes(kind, kind.build(config))
    found = {}
    for name, leaf in shapes.items():
        path, _, last = name.rpartition("/")
        if last != "bias":
            found[path] = Widths(*(leaf.shape[-2:] if len(leaf.shape) > 1 else leaf.shape * 2))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BASES)[1:])
def test_layers_of_other_models_are_those_of_our_networks(name):
    base = BASES[name]
    for network, config in {"unet": base.unet, **base.text_encoders}.items():
        assert layers_of_base(name)[network] == widths_of(base.family.components[network], config)
