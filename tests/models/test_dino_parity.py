# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""DINO's and DINOv2's image encoders against transformers in float64 and float32, from files of both layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dreambooth_jax.models.towers import DINO, DINOV2
from dreambooth_jax.models.vit_positions import cubic_weights
from dreambooth_jax.weights.pretrained import load_module
from tests import torch_models
from tests.models.test_parity import close, nchw, normal

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

KINDS = {"ViT": DINO, "Dinov2": DINOV2}


def features(model, pixels, **options):
    with torch.no_grad():
        return model(nchw(pixels), **options).last_hidden_state[:, 0].numpy()


def check(source, kind, pixels, expected, *, dtype, tolerance):
    """Of the files of a model."""
    with jax.enable_x64(dtype == jnp.float64):
        module, params = load_module(source, kind, dtype=dtype, param_dtype=dtype)
        found = jax.jit(module.apply)({"params": params}, jnp.asarray(pixels, dtype))
    assert found.dtype == dtype
    close(found, expected, tolerance)


@pytest.mark.parametrize("name", KINDS)
def test_encoders(name, tmp_path):
    """Of another size than there are positions for: those lie between them."""
    pixels = normal(2, 20, 8, 3).astype(np.float32)
    options = {"interpolate_pos_encoding": True} if name == "ViT" else {}
    for double, dtype, tolerance in ((True, jnp.float64, 1e-9), (False, jnp.float32, 1e-5)):
        model = torch_models.build_dino(name, double=double)
        expected = features(model, pixels.astype(dtype), **options)
        model.save_pretrained(tmp_path / f"{double}")
        check(tmp_path / f"{double}", KINDS[name], pixels, expected, dtype=dtype, tolerance=tolerance)


TIMM = (
    *(("encoder.layer.", "blocks."), ("embeddings.patch_embeddings.projection", "patch_embed.proj")),
    *(("embeddings.position_embeddings", "pos_embed"), ("embeddings.", "")),
    *(("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("layernorm.", "norm.")),
    *(("attention.output.dense", "attn.proj"), ("layer_scale", "ls"), ("lambda1", "gamma")),
    *(("intermediate.dense", "mlp.fc1"), (".output.dense", ".mlp.fc2")),
)


def as_timm_names_them(state):
    """What timm and the original code call the arrays of transformers' models."""
    found = {}
    for name, array in state.items():
        for theirs, timms in TIMM:
            name = name.replace(theirs, timms)
        found[name] = array
    for name in [name for name in found if "attention.attention.query" in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(parts)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_files_of_timm_and_torch_hub(name, tmp_path):
    """Their shapes tell the rest of the configuration: heads of 64."""
    shape = {"hidden_size": 128, "num_attention_heads": 2, "image_size": 12, "patch_size": 4, "layer_norm_eps": 1e-6}
    inner = {"ViT": {"intermediate_size": 96}, "Dinov2": {"mlp_ratio": 2}}[name]
    model = torch_models.build_dino(name, **shape, **inner)
    model.save_pretrained(tmp_path / "theirs", safe_serialization=True)
    save_file(as_timm_names_them(load_file(tmp_path / "theirs" / "model.safetensors")), tmp_path / "timm.safetensors")
    pixels = normal(2, 12, 12, 3).astype(np.float32)
    expected = features(model, pixels)
    check(tmp_path / "timm.safetensors", KINDS[name], pixels, expected, dtype=jnp.float32, tolerance=1e-5)


@pytest.mark.parametrize(("size", "count"), [(37, 16), (14, 16), (5, 5), (3, 8), (8, 3)])
def test_positions_lie_where_pytorchs_do(size, count):
    grid = normal(1, 2, size, size)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(grid), size=(count, count), mode="bicubic")
    weights = cubic_weights(size, count)
    np.testing.assert_allclose(weights @ grid @ weights.T, theirs.numpy(), atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)


def parameters(kind, config):
    module = kind.build(kind.config_cls.from_json(config))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *kind.dummy_inputs(module.config))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_published_sizes():
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "layer_norm_eps": 1e-12}
    assert parameters(DINO, {"model_type": "vit", "patch_size": 16, **small}) == 21_665_664
    assert parameters(DINO, {"model_type": "vit", "patch_size": 8, **small}) == 21_670_272
    v2 = {"model_type": "dinov2", "image_size": 518, "patch_size": 14, "mlp_ratio": 4}
    # of dinov2_vits14's 22,056,576 numbers 384 are the mask token, which only its own training needs
    assert parameters(DINOV2, v2 | {"hidden_size": 384, "num_attention_heads": 6}) == 22_056_576 - 384
