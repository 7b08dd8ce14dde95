# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Every kind of adapter by its settings, and whole runs of all ways to change a kernel at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import difference, ia3, lidb, loha, lokr, make_adapter, oft, rank_relaxed, registry, svdiff
from dreambooth_jax.adapters.kernel_kinds import KINDS
from dreambooth_jax.adapters.kernels import FIXED, KernelMethod, kernel_adapter, tensors_by_path
from dreambooth_jax.adapters.low_rank import first_factors
from dreambooth_jax.adapters.methods import METHODS
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.checks import check_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.models import CLIPTextConfig, UNetConfig
from dreambooth_jax.models.families import SD
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import Target
from dreambooth_jax.weights.adapters import Module, applied, read_adapter, write_adapter
from dreambooth_jax.weights.adapters.metadata import network_metadata
from dreambooth_jax.weights.adapters.methods import ALL_TENSORS, method_of
from dreambooth_jax.weights.modules import parameter_shapes
from tests.runs import MODEL, assert_same, cut_short, draw_photos, tiny_config, weights

TENSORS = {
    "lora": {"lora_down", "lora_up"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "lokr": {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"},
    "ia3": {"weight"},
    "oft": {"oft_blocks"},
    "svdiff": {"delta"},
    "lidb": {"lidb_down", "lidb_up"},
    "rank_relaxed": {"lora_down", "lora_up"},
    "custom_diffusion": {"diff"},
    "full": {"kernel", "bias", "scale"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    draw_photos(root / "photos")
    return root


@pytest.fixture(scope="module")
def params():
    """Shapes of a tiny model."""
    return trees.shapes(dbx.load_pretrained(MODEL).params)


def written(file, params, targets, method="lidb"):
    """The file of a LiDB, or of a LoRA, of some layers."""
    modules = {}
    for name in choose_layers(**targets)(list(trees.flatten(params))):
        i, o = trees.flatten(params)[name].shape
        tensors = {"lidb_down": np.ones((i, 1)), "lidb_up": np.ones((1, o)), "lidb_seed": np.uint32(4_000_000_000)}
        if method == "lora":
            tensors = {"lora_down": np.ones((i, 1)), "lora_up": np.ones((1, o))}
        network, _, path = name.removesuffix("/kernel").partition("/")
        modules.setdefault(network, {})[path] = Module(method, tensors)
    write_adapter(file, modules)
    return file


def trained_by(kind, root, params, *more):
    """Name -> shape of what a run of this kind trains."""
    config = tiny_config(root, f"adapter.kind={kind}", *more)
    adapter = make_adapter(config, {})
    _, trainable = jax.eval_shape(adapter.init, rng.root_key(0), params)
    return trees.flatten(trainable)


def last_parts(trained):
    """Names of the layers within their blocks."""
    return {name.rpartition("/")[0].rpartition("transformer_blocks_0/")[2] for name in trained}


@pytest.mark.parametrize("kind", TENSORS)
def test_each_kind_trains_its_own_tensors(kind, root, params, tmp_path):
    file = written(tmp_path / "begun.safetensors", params, {"unet": ["cross-attention-kv"]})
    more = [f"adapter.begin={file}"] if kind == "rank_relaxed" else []
    trained = trained_by(kind, root, params, *more)
    assert {name.rpartition("/")[2] for name in trained} <= TENSORS[kind]
    assert TENSORS.keys() >= KINDS.keys()


def test_what_is_trained_where_nothing_is_said_is_what_authors_chose(root, params):
    assert last_parts(trained_by("custom_diffusion", root, params)) == {"attn2/to_k", "attn2/to_v"}
    attention = {f"attn{n}/{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out_0")}
    assert last_parts(trained_by("lidb", root, params)) == attention
    scaled = {f"attn{n}/to_{part}" for n in (1, 2) for part in "kv"} | {"ff/net_2"}
    assert last_parts(trained_by("ia3", root, params)) == scaled
    assert trained_by("full", root, params).keys() == {n for n in trees.flatten(params) if n.startswith("unet/")}


def test_custom_diffusion_may_learn_a_new_word(root):
    pipe = dbx.load_pretrained(MODEL)
    config = tiny_config(root, "adapter.kind=custom_diffusion_words", "tokens.words=<dog>", "prior.weight=0")
    check_config(config)
    adapter = make_adapter(config, pipe.tokenizers)
    frozen, trainable = adapter.init(rng.root_key(0), pipe.params)
    assert {name.rpartition("/")[2] for name in trees.flatten(trainable["unet"])} == {"diff"}
    (vectors,) = jax.tree.leaves(trainable["tokens"])
    assert vectors.shape[0] == 1
    assert adapter.networks("tokens") == ("text_encoder",)
    assert adapter.compose(frozen, trainable).keys() == pipe.params.keys()


def test_what_is_rank_relaxed_begins_with_a_lidb_of_networks_that_are_trained(root, params, tmp_path):
    targets = {"unet": ["cross-attention-kv"], "text_encoder": ["attn-only"]}
    file = written(tmp_path / "both.safetensors", params, targets)
    trained = trained_by("rank_relaxed", root, params, f"adapter.begin={file}", "text_encoder.stop=-1")
    assert {name.partition("/")[0] for name in trained} == {"unet", "text_encoder"}
    with pytest.raises(InputError, match="changes the text encoder, which this run does not train"):
        trained_by("rank_relaxed", root, params, f"adapter.begin={file}")
    file = written(tmp_path / "lora.safetensors", params, targets, method="lora")
    with pytest.raises(InputError, match="is changed by lora, not by lidb"):
        trained_by("rank_relaxed", root, params, f"adapter.begin={file}")
    with pytest.raises(InputError, match=r"nowhere\.safetensors"):
        trained_by("rank_relaxed", root, params, "adapter.begin=/nowhere.safetensors")
    with pytest.raises(InputError, match="give its file as adapter.begin"):
        check_config(tiny_config(root, "adapter.kind=rank_relaxed"))


def test_full_trains_all_of_the_layers_that_are_chosen(root, params):
    """Biases and norms with them, and of the text encoder what is chosen there."""
    more = ["adapter.targets=.*/mid_block/.*", "text_encoder.stop=-1", "adapter.text_encoder_targets=.*_embedding"]
    trained = trained_by("full", root, params, *more)
    expected = trees.matcher(["unet/mid_block/.*", "text_encoder/.*_embedding/.*"])
    assert set(trained) == {name for name in trees.flatten(params) if expected(name)}
    assert {"bias", "scale", "kernel", "embedding"} == {name.rpartition("/")[2] for name in trained}


SD15 = {
    "unet": UNetConfig(cross_attention_dim=768),
    "text_encoder": CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
}


@pytest.mark.parametrize(("networks", "dtype"), [(["unet"], "float32"), (["unet", "text_encoder"], "float16")])
def test_a_lidb_of_stable_diffusion_takes_150_kilobytes(networks, dtype, root, tmp_path):
    """By shapes: 150 numbers for each of 128 layers of the UNet and 48 of the text encoder, and their names."""
    kinds = {name: SD.components[name] for name in networks}
    shapes = {name: parameter_shapes(kind, kind.build(SD15[name])) for name, kind in kinds.items()}
    more = ["text_encoder.stop=-1"] if len(networks) == 2 else []
    adapter = make_adapter(tiny_config(root, "adapter.kind=lidb", *more), {})
    described = jax.eval_shape(adapter.init, rng.root_key(0), shapes)
    fixed = {network: tree[FIXED] for network, tree in described[0].items()}
    seeds = {name: leaf for name, leaf in trees.flatten(fixed).items() if name.endswith("lidb_seed")}
    leaves = {**trees.flatten(described[1]), **seeds}
    zeros = trees.unflatten({name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in leaves.items()})
    modules = {
        network: {path: Module("lidb", tensors) for path, tensors in tensors_by_path(tree).items()}
        for network, tree in zeros.items()
    }
    assert sum(map(len, modules.values())) == (176 if len(networks) == 2 else 128)
    write_adapter(tmp_path / "lidb.safetensors", modules, dtype=dtype, metadata=network_metadata(modules))
    assert (tmp_path / "lidb.safetensors").stat().st_size <= 150_000


def relaxed(key, kernel):
    fixed, begun = lidb.start(key, kernel, seed=4_000_000_000)
    return {**fixed, **begun, "lidb_up": begun["lidb_up"] + 0.01}, first_factors(key, kernel.shape, 2, jnp.float32)


WAYS = {
    "ia3": (ia3.IA3, lambda key, kernel: ia3.start(kernel, on_input=kernel.shape[-2] < 64)),
    "lidb": (lidb.LIDB, partial(lidb.start, seed=4_000_000_000)),
    "rank relaxed": (rank_relaxed.RANK_RELAXED, relaxed),
    "loha": (loha.LOHA, partial(loha.start, rank=2, alpha=1.0)),
    "lokr": (lokr.LOKR, partial(lokr.start, rank=2, alpha=1.0)),
    "oft": (oft.OFT, lambda key, kernel: oft.start(kernel, block_size=4)),
    "svdiff": (svdiff.SVDIFF, lambda key, kernel: svdiff.start(kernel)),
    "diff": (difference.DIFFERENCE, lambda key, kernel: difference.start(kernel)),
}


def way_of(tensors):
    """The way that has these tensors, as of a file."""
    if {"lidb_down", "lora_down"} <= tensors.keys():
        return rank_relaxed.RANK_RELAXED
    return METHODS[method_of({name: one for name, one in tensors.items() if name in ALL_TENSORS})]


def by_turns(ways, names):
    """Each layer is changed in another way."""

    def start(key, name, kernel):
        number = layers(names).index(name)
        return WAYS[ways[number % len(ways)]][1](key, kernel)

    layers = choose_layers(unet=["attn-mlp"])
    mixed = KernelMethod(
        "mixed",
        lambda kernel, tensors: way_of(tensors).kernel(kernel, tensors),
        (lambda kernel, tensors: way_of(tensors).beside(kernel, tensors))
        if all(WAYS[way][0].beside for way in ways)
        else None,
    )
    return kernel_adapter(mixed, start, layers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
@pytest.mark.parametrize("ways", [list(WAYS), ["ia3", "lidb", "rank relaxed"]], ids=["composed", "beside"])
def test_all_ways_go_on_bit_for_bit(ways, tmp_path, root, params, monkeypatch):
    monkeypatch.setattr(Target, "here", classmethod(lambda _: Target.of(jax.devices()[:1])))
    names = list(trees.flatten(params))
    monkeypatch.setitem(registry.ADAPTERS, "loha", lambda config, tokenizers: by_turns(ways, names))
    settings = ["prior.weight=0", "train.steps=2", "train.batch_size=1", "checkpoint.every=1", "adapter.kind=loha"]
    settings += ["optimizer.learning_rate=1e-2"]
    whole = dbx.train(tiny_config(root, f"run_dir={tmp_path / 'whole'}", *settings)).folder
    killed = cut_short(whole, 1, tmp_path / "killed")
    dbx.train(tiny_config(root, f"run_dir={killed}", *settings))
    trained, first = weights(whole, 2), weights(whole, 1)
    assert_same(trained, weights(killed, 2))
    assert len({name.rpartition("/")[2] for name in trained}) >= len(ways)
    for name, leaf in trained.items():
        assert (leaf != first[name]).any(), name
    _the_layers_of_what_is_trained_change(whole, trained)
    _its_file_is_the_same_model(whole)


def _its_file_is_the_same_model(folder):
    """Without what follows from kernels and seeds, and with both products of rank-relaxed layers in one."""
    adapter = read_adapter(folder / "lora.safetensors")
    assert "rank_relaxed" not in {module.method for module in adapter.networks["unet"].values()}
    found = trees.flatten(applied(dbx.load_pretrained(MODEL).params, adapter))
    for name, leaf in trees.flatten(open_model(str(folder)).params).items():
        np.testing.assert_allclose(found[name], leaf, atol=2e-5, err_msg=name)


def _the_layers_of_what_is_trained_change(folder, trained):
    before = trees.flatten(dbx.load_pretrained(MODEL).params)
    layers = {name.rpartition("/")[0] for name in trained}
    for name, leaf in trees.flatten(open_model(str(folder)).params).items():
        differs = bool((np.asarray(leaf) != before[name]).any())
        assert differs == (name.endswith("/kernel") and name.rpartition("/")[0] in layers), name
