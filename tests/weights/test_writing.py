# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The folder that comes out: layout, class names, dtypes; and what is left when it cannot be written."""

import dataclasses
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import map_named
from dreambooth_jax.weights.pretrained import load_components
from dreambooth_jax.weights.writing import write_folder
from tests.weights.folders import FIXTURES, weights, write


def test_layout(written):
    assert {str(file.relative_to(written)) for file in written.rglob("*") if file.is_file()} == {
        *("model_index.json", "scheduler/scheduler_config.json"),
        *(f"{name}/config.json" for name in ("text_encoder", "unet", "vae")),
        *(str(weights(written, name).relative_to(written)) for name in ("text_encoder", "unet", "vae")),
        *(f"tokenizer/{name}" for name in ("merges.txt", "vocab.json")),
        *(f"tokenizer/{name}" for name in ("special_tokens_map.json", "tokenizer_config.json")),
    }
    for file in (written / "tokenizer").iterdir():
        assert file.read_bytes() == (FIXTURES / "legacy_flax_sd15" / "tokenizer" / file.name).read_bytes()


def test_classes_are_those_of_pytorch(written):
    index = json.loads((written / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert index["requires_safety_checker"] is False
    for name in ("unet", "vae", "scheduler"):
        file = written / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        config = json.loads(file.read_text())
        assert index[name] == ["diffusers", config["_class_name"]]
        assert not config["_class_name"].startswith("Flax")


@pytest.mark.parametrize(
    ("source", "format", "expected"),
    [
        ("FlaxPNDMScheduler", "safetensors", "PNDMScheduler"),
        ("EulerAncestralDiscreteScheduler", "safetensors", "EulerAncestralDiscreteScheduler"),
        (None, "safetensors", "DDIMScheduler"),
        ("PNDMScheduler", "flax", "FlaxPNDMScheduler"),
        ("UniPCMultistepScheduler", "flax", "FlaxDDIMScheduler"),  # there was no Flax class of it
    ],
)
def test_scheduler(sd15, tmp_path, source, format, expected):
    config = {**sd15.scheduler_config, "_class_name": source}
    changed = {key: value for key, value in config.items() if value is not None}
    folder = write(tmp_path, dataclasses.replace(sd15, scheduler_config=changed), format=format)
    written = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert written["_class_name"] == expected
    assert {**written, "_class_name": source} == {**changed, "_class_name": source}
    assert json.loads((folder / "model_index.json").read_text())["scheduler"] == ["diffusers", expected]


def test_the_saved_dtype_is_said_where_transformers_looks(sd15, tmp_path):
    config = {**sd15.configs["text_encoder"], "dtype": "float32"}
    half = dataclasses.replace(sd15, configs={**sd15.configs, "text_encoder": config})
    folder = write(tmp_path, half, dtype="float16")
    written = json.loads((folder / "text_encoder" / "config.json").read_text())
    assert written["torch_dtype"] == "float16"
    assert "dtype" not in written


def test_sharded_parameters(sd15, tmp_path, written):
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))

    def place(name, leaf):
        spec = PartitionSpec("fsdp") if leaf.shape[0] % len(mesh.devices) == 0 else PartitionSpec()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    folder = write(tmp_path, dataclasses.replace(sd15, params=map_named(place, sd15.params)))
    for component in sd15.params:
        assert weights(folder, component).read_bytes() == weights(written, component).read_bytes()


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (70000.0, False), (np.inf, True)])
def test_float16_overflow(sd15, tmp_path, value, fits):
    params = map_named(lambda name, leaf: leaf + value if name == "unet/conv_in/bias" else leaf, sd15.params)
    big = dataclasses.replace(sd15, params=params)
    if fits:
        stored = load_file(weights(write(tmp_path / "model", big, dtype="float16"), "unet"))
        assert stored["conv_in.bias"].max() == value
    else:
        with pytest.raises(InputError, match=r"unet/conv_in/bias has values beyond float16's range \(up to 7000"):
            write(tmp_path / "model", big, dtype="float16")
        assert not (tmp_path / "model").exists()


def test_a_full_disk(sd15, folder):
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limit[1]))
    try:
        with pytest.raises(InputError, match="could not be saved"):
            write(folder, dataclasses.replace(sd15, params=jax.tree.map(jnp.zeros_like, sd15.params)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_over_the_folder_that_was_read(folder, sd15):
    write_folder(
        folder,
        params=sd15.params,
        configs=sd15.configs,
        scheduler_config=sd15.scheduler_config,
        tokenizers={"tokenizer": folder / "tokenizer"},
        dtype="bfloat16",
    )
    assert (folder / "tokenizer" / "vocab.json").exists()
    assert load_components(folder).params.keys() == sd15.params.keys()


class TestOverSomethingElse:
    """A folder that has files of others."""

    def test_what_is_not_ours_stays(self, folder, sd15):
        mine = [
            "unet/mine.txt",
            "vae/notes/deep.txt",
            "scheduler/old.json",
            "tokenizer/words.md",
            "LICENSE",
            "unet/a.png",
        ]
        for name in mine:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        write(folder, dataclasses.replace(sd15, params=jax.tree.map(jnp.zeros_like, sd15.params)))
        assert {name: (folder / name).read_text() for name in mine} == {name: name for name in mine}
        assert not load_file(weights(folder, "unet"))["conv_in.bias"].any()

    @pytest.mark.parametrize(
        "name",
        [
            *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json"),
            *("vae/diffusion_pytorch_model-00001-of-00002.safetensors", "text_encoder/pytorch_model.bin"),
            *("text_encoder/model.bf16.safetensors", "tokenizer/tokenizer.json"),
        ],
    )
    def test_what_would_be_read_in_the_place_of_ours_is_refused(self, folder, sd15, name):
        (folder / name).write_text("of another model")
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        with pytest.raises(InputError, match=f"{name} would be read in the place of what is saved"):
            write(folder, sd15)
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before

    def test_the_other_format_of_ours_is_replaced(self, folder, sd15):
        ones = dataclasses.replace(sd15, params=jax.tree.map(jnp.ones_like, sd15.params))
        write(folder, ones, format="flax")
        assert not list(folder.rglob("*.safetensors"))
        assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(load_components(folder).params))
        write(folder, sd15)
        assert not list(folder.rglob("*.msgpack"))
