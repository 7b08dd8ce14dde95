# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import full

PARAMS = {
    "unet": {
        "conv_in": {"kernel": np.ones((3, 3, 4, 8), np.float32), "bias": np.zeros(8, np.float32)},
        "attn2": {"to_q": {"kernel": np.full((8, 8), 2.0, np.float32)}},
    },
    "text_encoder": {"embedding": np.full((5, 8), 3.0, np.float32)},
    "vae": {"conv": {"kernel": np.full((1, 1, 3, 4), 4.0, np.float32)}},
}

# Every adapter of the package, with the leaves that it trains.
ADAPTERS = {
    "unet": (full("unet/.*"), "unet/"),
    "unet and text encoder": (full("unet/.*", "text_encoder/.*"), ("unet/", "text_encoder/")),
    "cross-attention": (full(r"unet/.*attn2.*"), "unet/attn2"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_compose_undoes_init(name):
    adapter, _ = ADAPTERS[name]
    composed = adapter.compose(*adapter.init(rng.root_key(0), PARAMS))
    jax.tree.map(np.testing.assert_array_equal, composed, PARAMS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_structure_shapes_and_dtypes_stay(name):
    adapter, _ = ADAPTERS[name]
    frozen, trainable = adapter.init(rng.root_key(0), PARAMS)
    moved = jax.tree.map(lambda x: x * 2 + 1, trainable)
    composed = adapter.compose(frozen, moved)
    assert trees.shapes(composed) == trees.shapes(PARAMS)


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_exist_for_the_selection_alone(name):
    adapter, prefix = ADAPTERS[name]
    frozen, trainable = adapter.init(rng.root_key(0), PARAMS)

    def total(trainable):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(adapter.compose(frozen, trainable)))

    grads = jax.grad(total)(jax.tree.map(jnp.asarray, trainable))
    assert set(trees.flatten(grads)) == {leaf for leaf in trees.flatten(PARAMS) if leaf.startswith(prefix)}
    moved = adapter.compose(frozen, jax.tree.map(lambda x: x + 1, trainable))
    for leaf, value in trees.flatten(moved).items():
        changed = bool((np.asarray(value) != trees.flatten(PARAMS)[leaf]).any())
        assert changed == leaf.startswith(prefix), leaf


def test_selecting_nothing_is_an_error():
    with pytest.raises(ValueError, match="no leaf matches"):
        full("unet/attn9.*").init(rng.root_key(0), PARAMS)
