# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One parameter, three names: every way there and back, on the name sets of real models."""

import doctest

import numpy as np
import pytest
from flax import serialization

from dreambooth_jax.models.families import SD
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.modules import build_modules, parameter_shapes
from tests import torch_models
from tests.weights.folders import FIXTURES, KINDS

FLAX_FILES = {
    "text_encoder": "text_encoder/flax_model.msgpack",
    "unet": "unet/diffusion_flax_model.msgpack",
    "vae": "vae/diffusion_flax_model.msgpack",
}


@pytest.fixture(scope="module", params=torch_models.KINDS)
def pair(request):
    """(our names by component, the state dict by component) of one kind."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    models = torch_models.build(request.param)
    configs = {component: torch_models.config_json(getattr(models, component)) for component in SD.components}
    modules = build_modules(configs)
    ours = {component: parameter_shapes(SD.components[component], module) for component, module in modules.items()}
    return ours, {component: getattr(models, component).state_dict() for component in SD.components}


def _with_prefix(component, name):
    """transformers 5 leaves out the prefix that all earlier versions write and want."""
    outside = component == "text_encoder" and not name.startswith("text_model.")
    return f"text_model.{name}" if outside else name


@pytest.mark.parity
@pytest.mark.parametrize("component", SD.components)
def test_name_sets_are_those_of_torch_both_ways(pair, component):
    ours, theirs = pair[0][component], pair[1][component]
    assert {names.torch_name(name) for name in ours} == {_with_prefix(component, name) for name in theirs}
    assert {names.key(SD.components[component].key_rules, name) for name in ours} == {
        names.key(SD.components[component].key_rules, name) for name in theirs
    }


@pytest.mark.parity
@pytest.mark.parametrize("component", SD.components)
def test_shapes_are_those_of_torch(pair, component):
    ours, theirs = pair[0][component], pair[1][component]
    shapes = {_with_prefix(component, name): tuple(array.shape) for name, array in theirs.items()}
    for name, leaf in ours.items():
        assert names.to_torch(name, np.zeros(leaf.shape)).shape == shapes[names.torch_name(name)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("component", SD.components)
def test_legacy_flax_names_there_and_back(kind, component):
    legacy = flatten(serialization.msgpack_restore((FIXTURES / kind / FLAX_FILES[component]).read_bytes()))
    ours = {name: name for name in legacy}
    if component == "vae":
        ours = {name: _modern(name) for name in legacy}
    elif component == "text_encoder":
        ours = {name: name.replace("layers/", "layers_") for name in legacy}
    for name in legacy:
        assert names.flax_name(SD.components[component].key_rules, ours[name]) == name
        assert names.key(SD.components[component].key_rules, name) == names.key(
            SD.components[component].key_rules, ours[name]
        )
    assert len({names.key(SD.components[component].key_rules, name) for name in legacy}) == len(legacy)


def _modern(name: str) -> str:
    for old, new in (("/query/", "/to_q/"), ("/key/", "/to_k/"), ("/value/", "/to_v/"), ("/proj_attn/", "/to_out_0/")):
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize(
    ("component", "same"),
    [
        (
            "vae",
            [
                "encoder/mid_block/attentions_0/to_out_0/kernel",
                "encoder.mid_block.attentions.0.to_out.0.weight",
                "encoder.mid_block.attentions.0.proj_attn.weight",
                "encoder/mid_block/attentions_0/proj_attn/kernel",
            ],
        ),
        (
            "text_encoder",
            [
                "text_model/encoder/layers_11/layer_norm1/scale",
                "text_model/encoder/layers/11/layer_norm1/scale",
                "text_model.encoder.layers.11.layer_norm1.weight",
                "encoder.layers.11.layer_norm1.weight",
            ],
        ),
        ("text_encoder", ["text_model.embeddings.position_ids", "embeddings.position_ids"]),
        ("unet", ["time_embedding/linear_1/bias", "time_embedding.linear_1.bias"]),
    ],
)
def test_names_of_one_parameter_have_one_key(component, same):
    assert len({names.key(SD.components[component].key_rules, name) for name in same}) == 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [("a/kernel", (3, 3, 4, 5)), ("a/kernel", (4, 5)), ("a/embedding", (4, 5)), ("a/scale", (4,)), ("a/bias", (4,))],
)
def test_turning_there_and_back_changes_nothing(name, shape):
    array = np.random.default_rng(0).normal(size=shape)
    back = names.to_ours(name, names.to_torch(name, array), source="a.weight", ndim=len(shape))
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(names.to_ours(name, array, source=name, ndim=len(shape)), array)


def test_turning_is_as_the_layouts_say():
    array = np.random.default_rng(0).normal(size=(3, 3, 4, 5))
    assert names.to_torch("a/kernel", array)[4, 3, 2, 1] == array[2, 1, 3, 4]  # OIHW of HWIO
    assert names.to_torch("a/kernel", array[0, 0])[4, 3] == array[0, 0, 3, 4]


@pytest.mark.parametrize("source", ["a.weight", "a/kernel"])
def test_a_dense_layer_is_a_convolution_of_size_one(source):
    dense = np.random.default_rng(0).normal(size=(4, 5))
    conv = dense[None, None]
    stored_dense, stored_conv = (names.to_torch("a/kernel", x) if source == "a.weight" else x for x in (dense, conv))
    np.testing.assert_array_equal(names.to_ours("a/kernel", stored_dense, source=source, ndim=4), conv)
    np.testing.assert_array_equal(names.to_ours("a/kernel", stored_conv, source=source, ndim=2), dense)


def test_examples():
    assert doctest.testmod(names).failed == 0
