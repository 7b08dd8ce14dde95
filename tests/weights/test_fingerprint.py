# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model is known by what is read of it, not by what lies beside that."""

import json
import shutil

import numpy as np
import pytest

from dreambooth_jax.pipeline.load import EMBEDDED
from dreambooth_jax.weights.fingerprint import folder_fingerprint
from dreambooth_jax.weights.pretrained import describe_components, load_components
from tests.weights.folders import FIXTURES, KINDS, rewrite, shard, weights


def known(folder, **options):
    """The fingerprint of a folder."""
    return load_components(folder, **options).fingerprint


@pytest.mark.parametrize("source", [*(FIXTURES / kind for kind in KINDS), EMBEDDED], ids=lambda path: path.name)
def test_it_is_that_of_earlier_versions_where_nothing_else_lies_there(source):
    assert known(source) == folder_fingerprint(source)


def test_it_depends_on_neither_place_nor_files_that_are_not_read(folder, written):
    before = known(written)
    assert known(folder) == before
    shutil.copy(weights(folder, "unet"), weights(folder, "unet").with_suffix(".fp16.safetensors"))
    (folder / "unet" / "notes.txt").write_text("mine")
    (folder / "vae" / "diffusion_flax_model.msgpack").write_bytes(b"of long ago")
    assert known(folder) == before
    assert folder_fingerprint(folder) != before


@pytest.mark.parametrize(
    "name",
    ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "text_encoder/config.json"],
)
def test_it_changes_with_each_file_that_is_read(folder, name):
    before = known(folder)
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert known(folder) != before


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae"])
def test_it_changes_with_the_weights_and_each_shard_of_them(folder, component):
    plain = known(folder)
    shard(folder, component)
    sharded = known(folder)
    assert sharded != plain
    index = json.loads(next((folder / component).glob("*.index.json")).read_text())["weight_map"]
    for name in sorted(set(index.values())):
        file = folder / component / name
        file.write_bytes(file.read_bytes()[:-4] + np.float32(0.5).tobytes())
        assert known(folder) != sharded
        sharded = known(folder)


def test_another_variant_is_another_model(folder):
    for component in ("text_encoder", "unet", "vae"):
        stem = weights(folder, component)
        shutil.copy(stem, stem.with_suffix(".ema.safetensors"))
    rewrite(folder, "unet", lambda arrays: {name: -array for name, array in arrays.items()})
    assert known(folder) != known(folder, variant="ema")


def test_of_shapes_alone_there_is_none(folder):
    assert describe_components(folder).fingerprint == ""


def test_an_earlier_one_is_recognised(folder):
    shutil.copy(weights(folder, "unet"), weights(folder, "unet").with_suffix(".fp16.safetensors"))
    components = load_components(folder)
    earlier = folder_fingerprint(folder)
    assert earlier != components.fingerprint
    assert components.known_as([earlier]) == earlier
    assert components.known_as([]) == components.known_as(["another"]) == components.fingerprint
    assert components.known_as([earlier, components.fingerprint]) == components.fingerprint
