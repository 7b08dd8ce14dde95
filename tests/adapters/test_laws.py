# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import composed, full, join, lora, part_for, passed_on, registry
from dreambooth_jax.adapters.kernel_kinds import KINDS
from dreambooth_jax.adapters.kernels import KernelMethod, kernel_adapter
from dreambooth_jax.adapters.rank_relaxed import rank_relaxed
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.sparing import sparing
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.adapters.textual_inversion import textual_inversion
from dreambooth_jax.config import AdapterConfig
from tests.adapters.toy import low_rank

PARAMS = {
    "unet": {
        "conv_in": {"kernel": np.ones((3, 3, 4, 8), np.float32), "bias": np.zeros(8, np.float32)},
        "attn2": {"to_q": {"kernel": np.full((8, 8), 2.0, np.float32)}},
    },
    "text_encoder": {
        "token_embedding": {"embedding": np.full((5, 8), 3.0, np.float32)},
        "q_proj": {"kernel": np.full((8, 6), 5.0, np.float32)},
    },
    "vae": {"conv": {"kernel": np.full((1, 1, 3, 4), 4.0, np.float32)}},
}


def scaled(pattern):
    """A kernel is multiplied by (1 + scale · gain), where ``gain`` is kept fixed."""
    selected = trees.matcher([pattern])

    def start(key, name, kernel):
        del key
        outputs = (*[1] * (len(kernel.shape) - 1), kernel.shape[-1])
        return ({"gain": jnp.ones(())}, {"scale": jnp.zeros(outputs)}) if selected(name) else None

    return kernel_adapter(KernelMethod("scaled", lambda kernel, t: kernel * (1 + t["scale"] * t["gain"])), start)


NEW_WORDS = textual_inversion({"sks": 2}, {"text_encoder": [(1,), (0, 4)]}, norm="initial")
OF_WORDS = scaled(".*q_proj.*")._replace(groups=("text_encoder",))
LAYERS = choose_layers(unet=["full"], text_encoder=["full"])
KERNELS = ["unet/.*/kernel", "text_encoder/q_proj/kernel"]
LIDB = {"lidb_down": np.ones((7, 1)), "lidb_up": np.zeros((1, 5)), "lidb_seed": np.uint32(4)}

# Adapters, with patterns of the model's leaves that each changes.
ADAPTERS = {
    "unet": (full("unet/.*"), ["unet/.*"]),
    "unet and text encoder": (full("unet/.*", "text_encoder/.*"), ["unet/.*", "text_encoder/.*"]),
    "cross-attention": (full(r"unet/.*attn2.*"), ["unet/attn2.*"]),
    "kernels": (scaled(".*(conv_in|q_proj).*"), ["unet/conv_in/kernel", "text_encoder/q_proj/kernel"]),
    "lora": (
        lora(LAYERS, ranks=Ranks(2, alpha=1.0, conv_rank=3)),
        KERNELS,
    ),
    **{f"kind {name}": (build(AdapterConfig(), LAYERS), KERNELS) for name, build in KINDS.items()},
    "rank relaxed": (
        rank_relaxed({f"unet/{path}": LIDB for path in ("conv_in", "attn2/to_q")}, rank=2),
        ["unet/.*/kernel"],
    ),
    "new words": (
        NEW_WORDS,
        ["text_encoder/token_embedding/added"],
    ),
    "kind lora, DoRA of inputs": (lora(LAYERS, ranks=Ranks(2), dora="input"), KERNELS),
    "kind lora, DoRA of outputs": (lora(LAYERS, ranks=Ranks(2), dora="output"), KERNELS),
    "new words and LoRA": (
        join(NEW_WORDS, lora(choose_layers(unet=["full"], text_encoder=["full"]), ranks=Ranks(2))),
        ["unet/.*/kernel", "text_encoder/q_proj/kernel", "text_encoder/token_embedding/added"],
    ),
    "two": (
        join(lora(choose_layers(unet=["full"]), ranks=Ranks(2)), OF_WORDS),
        ["unet/.*/kernel", "text_encoder/q_proj/kernel"],
    ),
    "two, the other way round": (
        join(OF_WORDS, lora(choose_layers(unet=["full"]), ranks=Ranks(2))),
        ["unet/.*/kernel", "text_encoder/q_proj/kernel"],
    ),
    "sparing, full": (
        sparing(full("unet/.*", "text_encoder/.*"), ["unet/attn2/.*", "text_encoder/q_proj/kernel"]),
        ["unet/conv_in/.*", "text_encoder/token_embedding/embedding"],
    ),
    "sparing, new words and LoRA": (
        sparing(join(NEW_WORDS, lora(LAYERS, ranks=Ranks(2))), ["unet/attn2/.*"]),
        ["unet/conv_in/kernel", "text_encoder/q_proj/kernel", "text_encoder/token_embedding/added"],
    ),
    "low rank": (low_rank("words", "pictures"), ["unet/attn2/to_q/kernel", "text_encoder/q_proj/kernel"]),
    "low rank, unet": (low_rank("pictures"), ["unet/attn2/to_q/kernel"]),
}


WORDS = {"pivotal": "lora", "custom_diffusion_words": "custom_diffusion"}
"""Kinds that learn words besides."""
VECTORS = {"text_encoder/token_embedding/added": np.full((2, 8), 3.0, np.float32)}
NEW = dict.fromkeys(("new words", "new words and LoRA", "sparing, new words and LoRA"), VECTORS)
"""What adapters have a model have besides, as it is at first."""


@pytest.fixture
def model(request):
    """All leaves of the composed model, before anything is trained."""
    return trees.unflatten(trees.flatten(PARAMS) | NEW.get(request.node.callspec.params["case"], {}))


@pytest.fixture(params=ADAPTERS)
def case(request):
    """(adapter, is a leaf one that it changes?, frozen, trainable, trainable elsewhere)"""
    adapter, patterns = ADAPTERS[request.param]
    frozen, trainable = adapter.init(rng.root_key(0), PARAMS)
    moved = jax.tree.map(lambda x: x * 2 + 1 + np.linspace(0, 1, x.size, dtype=x.dtype).reshape(x.shape), trainable)
    return adapter, trees.matcher(patterns), frozen, trainable, moved


def test_compose_undoes_init(case, model):
    adapter, _, frozen, trainable, _ = case
    jax.tree.map(np.testing.assert_array_equal, adapter.compose(frozen, trainable), model)


def test_structure_shapes_and_dtypes_stay(case, model):
    adapter, _, frozen, _, moved = case
    assert trees.shapes(adapter.compose(frozen, moved)) == trees.shapes(model)


def test_shapes_are_enough(case, model):
    adapter, _, frozen, trainable, _ = case
    described = jax.eval_shape(adapter.init, rng.root_key(0), trees.shapes(PARAMS))
    assert trees.shapes(described) == trees.shapes((frozen, trainable))
    assert trees.shapes(jax.eval_shape(adapter.compose, *described)) == trees.shapes(model)


def test_what_is_selected_moves_and_nothing_else(case, model):
    adapter, selected, frozen, _, moved = case
    for name, leaf in trees.flatten(adapter.compose(frozen, moved)).items():
        assert bool((np.asarray(leaf) != trees.flatten(model)[name]).any()) == selected(name), name


def test_a_network_composes_alone(case):
    adapter, _, frozen, _, moved = case
    whole = adapter.compose(frozen, moved)
    for name in PARAMS:
        alone = adapter.compose(*part_for(adapter, [name], frozen, moved))
        jax.tree.map(np.testing.assert_array_equal, alone[name], whole[name])


def test_no_gradient_reaches_a_network_that_a_group_does_not_change(case):
    adapter, _, frozen, _, moved = case
    moved = jax.tree.map(jnp.asarray, moved)

    def total(trainable, name):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(adapter.compose(frozen, trainable)[name]))

    for name in PARAMS:
        for group, grads in jax.grad(total)(moved, name).items():
            reached = any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))
            assert reached == (name in adapter.networks(group)), (name, group)


@pytest.mark.parametrize("way", ["beside", "members"])
def test_what_stands_beside_a_layer_is_what_is_composed_into_it(case, way):
    """diag(inputs) (W + down up) diag(outputs); all else is composed. Members share all that is not in the deltas."""
    adapter, _, frozen, _, moved = case
    if getattr(adapter, way) is None:
        pytest.skip("it is all composed")
    params, deltas = getattr(adapter, way)(frozen, moved)
    if way == "members":
        assert {id(leaf) for leaf in jax.tree.leaves(params)} <= {id(leaf) for leaf in jax.tree.leaves(frozen)}
    found, expected = trees.flatten(params), trees.flatten(adapter.compose(frozen, moved))
    for network, layers in deltas.items():
        for path, one in layers.items():
            if one.added is not None:
                found[f"{network}/{path}/added"] = one.added
                continue
            kernel = found[f"{network}/{path}/kernel"]
            np.testing.assert_array_equal(kernel, trees.flatten(PARAMS)[f"{network}/{path}/kernel"])
            if one.down is not None:
                kernel = kernel + (one.down @ one.up.reshape(one.up.shape[-2:])).reshape(kernel.shape)
            for factors, shape in ((one.inputs, (-1, 1)), (one.outputs, (1, -1))):
                if factors is not None:
                    kernel = kernel * factors.reshape(*[1] * (kernel.ndim - 2), *shape)
            found[f"{network}/{path}/kernel"] = kernel
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, rtol=2e-5, atol=1e-5, err_msg=name)


def test_it_is_known_by_its_kind_whether_an_adapter_has_members():
    """New words have, as have those that stand beside layers; together they have if both do."""
    kinds = {name: build(AdapterConfig(), LAYERS) for name, build in KINDS.items()}
    words = {name: join(kinds[kind]._replace(groups=()), NEW_WORDS) for name, kind in WORDS.items()}
    others = {"rank_relaxed": ADAPTERS["rank relaxed"][0], "textual_inversion": NEW_WORDS, "full": full("unet/.*")}
    every = kinds | words | others
    assert every.keys() == registry.ADAPTERS.keys()
    assert {name for name, adapter in every.items() if adapter.members} == set(registry.WITH_MEMBERS)


def test_compiled_it_is_the_same_and_what_is_passed_on_is_no_copy(case):
    adapter, selected, frozen, _, moved = case
    frozen, moved = jax.tree.map(jnp.asarray, (frozen, moved))
    model = composed(adapter, frozen, moved)
    jax.tree.map(np.testing.assert_array_equal, model, adapter.compose(frozen, moved))
    given = {id(leaf) for leaf in jax.tree.leaves((frozen, moved))}
    shared = {name: leaf for name, leaf in trees.flatten(model).items() if id(leaf) in given}
    assert trees.shapes(list(shared.values())) == passed_on(adapter, frozen, moved)
    is_full = trees.flatten(moved).keys() <= trees.flatten(PARAMS).keys()
    assert trees.flatten(PARAMS).keys() - shared.keys() == (
        set() if is_full else {name for name in trees.flatten(PARAMS) if selected(name)}
    )


def test_selecting_nothing_is_an_error():
    with pytest.raises(ValueError, match="no leaf matches"):
        full("unet/attn9.*").init(rng.root_key(0), PARAMS)
    with pytest.raises(ValueError, match="no kernel"):
        scaled("unet/attn9.*").init(rng.root_key(0), PARAMS)
