# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run of any kind trained, through a file and back: the model is the one that the run composes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng
from dreambooth_jax.adapters import full, join
from dreambooth_jax.adapters.registry import ADAPTERS
from dreambooth_jax.adapters.textual_inversion import textual_inversion
from dreambooth_jax.config import load_config
from dreambooth_jax.trees import flatten, map_named, unflatten
from dreambooth_jax.weights.adapters import Module, applied, read_adapter, write_adapter
from dreambooth_jax.weights.adapters.trained import is_of_kernels, modules_of
from dreambooth_jax.weights.checking import check_file
from tests.weights.adapters.test_names import kohya_targets
from tests.weights.adapters.test_names import layers as layers  # a fixture

KINDS = sorted(set(ADAPTERS) - {"full", "rank_relaxed", "textual_inversion", "pivotal"})
SETTINGS = {
    "oft": ["adapter.block_size=4"],
    "lidb": ["adapter.lidb_down=5", "adapter.lidb_up=4", "adapter.lidb_seed=7"],
    "lora": ["adapter.alpha=1", "adapter.rank=3", "adapter.rank_stabilized=true"],
    "lokr": ["adapter.rank=2"],
}
VARIANTS = [*((kind, ()) for kind in KINDS), ("lora", ("adapter.dora=input",)), ("lora", ("adapter.dora=output",))]


def params():
    """Of layers as the denoiser and the text encoder have them."""
    r = np.random.default_rng(0)
    block = "transformer_blocks_0"
    shapes = {
        "unet": {
            f"mid_block/attentions_0/{block}/attn1/to_q": (8, 8),
            f"mid_block/attentions_0/{block}/attn1/to_k": (8, 8),
            f"mid_block/attentions_0/{block}/attn2/to_k": (12, 8),
            f"mid_block/attentions_0/{block}/attn2/to_v": (12, 8),
            f"mid_block/attentions_0/{block}/ff/net_2": (16, 8),
            "mid_block/attentions_0/proj_in": (1, 1, 8, 8),
            "mid_block/resnets_0/conv1": (3, 3, 8, 8),
        },
        "text_encoder": {
            f"text_model/encoder/layers_0/{part}": shape
            for part, shape in (("self_attn/k_proj", (12, 12)), ("self_attn/v_proj", (12, 12)), ("mlp/fc2", (16, 12)))
        },
    }
    return {
        network: unflatten({f"{path}/kernel": r.normal(size=s).astype(np.float32) for path, s in own.items()})
        for network, own in shapes.items()
    }


def adapter_of(kind, *overrides):
    words = [f"adapter.kind={kind}", "text_encoder.stop=-1", *SETTINGS.get(kind, []), *overrides]
    return ADAPTERS[kind](load_config(None, words), {})


def moved(trainable):
    """As if it had been trained."""
    r = np.random.default_rng(1)
    return map_named(lambda _, leaf: leaf + jnp.asarray(0.1 * r.normal(size=leaf.shape), leaf.dtype), trainable)


@pytest.mark.parametrize(("kind", "overrides"), VARIANTS)
def test_a_file_makes_the_model_that_the_run_composes(tmp_path, kind, overrides):
    adapter, model = adapter_of(kind, *overrides), params()
    frozen, trainable = adapter.init(rng.root_key(0), model)
    trainable = moved(trainable)
    assert is_of_kernels(frozen, trainable)
    assert is_of_kernels(*jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (frozen, trainable)))
    dialect = "peft" if overrides == ("adapter.dora=output",) else "kohya"
    write_adapter(tmp_path / "a.safetensors", modules_of(frozen, trainable), dialect=dialect)
    expected = flatten(adapter.compose(frozen, trainable))
    found = flatten(applied(model, read_adapter(tmp_path / "a.safetensors")))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=2e-6, err_msg=name)
    changed = sum(bool((np.asarray(leaf) != flatten(model)[name]).any()) for name, leaf in expected.items())
    assert changed == sum(len(layers) for layers in read_adapter(tmp_path / "a.safetensors").networks.values()) > 1
    assert not check_file(tmp_path / "a.safetensors").damage


@pytest.mark.parametrize("kind", ["lora", "lidb"])
@pytest.mark.parametrize("words_first", [False, True])
def test_a_joined_adapter_has_the_modules_that_it_has_alone(words_first, kind):
    """What a method keeps fixed, such as alpha, is found wherever a join has put it."""
    alone, model = adapter_of(kind), params()
    model["text_encoder"] |= unflatten({"embeddings/token_embedding/embedding": np.ones((5, 4), np.float32)})
    words = textual_inversion({"a": 1}, {"text_encoder": [(2,)]})
    joint = join(words, alone) if words_first else join(alone, words)
    found, expected = (modules_of(*adapter.init(rng.root_key(0), model)) for adapter in (joint, alone))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert kind != "lora" or all("alpha" in module.tensors for one in found.values() for module in one.values())


def test_rank_relaxed_tuning_ends_with_a_plain_lora(tmp_path):
    light, model = adapter_of("lidb"), params()
    frozen, trainable = light.init(rng.root_key(0), model)
    write_adapter(tmp_path / "light.safetensors", modules_of(frozen, moved(trainable)))
    adapter = adapter_of("rank_relaxed", f"adapter.begin={tmp_path}/light.safetensors", "adapter.rank=2")
    frozen, trainable = adapter.init(rng.root_key(0), model)
    trainable = moved(trainable)
    assert is_of_kernels(frozen, trainable)
    write_adapter(tmp_path / "a.safetensors", modules_of(frozen, trainable))
    found = read_adapter(tmp_path / "a.safetensors")
    assert {module.method for layers in found.networks.values() for module in layers.values()} == {"lora"}
    expected, found = flatten(adapter.compose(frozen, trainable)), flatten(applied(model, found))
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, atol=5e-6, err_msg=name)


def test_whole_networks_are_no_adapter():
    frozen, trainable = full("unet/.*").init(rng.root_key(0), params())
    assert not is_of_kernels(frozen, trainable)


def test_sizes_of_stable_diffusion(layers, tmp_path):
    """Rank 16 on all that sd-scripts change of the denoiser is at most 14 MB in half precision."""
    shapes = {path: layers["unet"][path] for path in kohya_targets(layers)["unet"]}
    modules = {
        path: Module(
            "lora",
            {
                "lora_down": np.ones((*shape[:-1], 16), np.float16),
                "lora_up": np.ones((*[1] * (len(shape) - 2), 16, shape[-1]), np.float16),
                "alpha": np.float32(16),
            },
        )
        for path, shape in shapes.items()
    }
    write_adapter(tmp_path / "a.safetensors", {"unet": modules}, dtype="float16")
    assert 6e6 < (tmp_path / "a.safetensors").stat().st_size <= 14e6


def test_one_seed_for_all_layers(tmp_path):
    from dreambooth_jax.errors import InputError

    def light(seed):
        tensors = {"lidb_down": np.ones((3, 1), np.float32), "lidb_up": np.ones((1, 3), np.float32)}
        return Module("lidb", {**tensors, "lidb_seed": np.uint32(seed)})

    with pytest.raises(InputError, match="have the seeds 1 and 2"):
        write_adapter(tmp_path / "a.safetensors", {"unet": {"conv_in": light(1), "conv_out": light(2)}})
    write_adapter(tmp_path / "a.safetensors", {"unet": {"conv_in": light(2**32 - 1)}})
    found = read_adapter(tmp_path / "a.safetensors").networks["unet"]["conv_in"].tensors["lidb_seed"]
    assert (found, found.dtype) == (2**32 - 1, np.uint32)
