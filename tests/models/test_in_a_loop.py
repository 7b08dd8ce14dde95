# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Transformer blocks in a loop are the blocks one by one: results, gradients, what drops out; and one is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import trees
from dreambooth_jax.models.attention import Context
from dreambooth_jax.models.beside import Beside, apply, attached
from dreambooth_jax.models.unet_blocks import Transformer

BLOCKS, CHANNELS = 3, 8
LAYERS = [f"transformer_blocks_{i}/attn{j}/to_{kind}" for i in range(BLOCKS) for j in (1, 2) for kind in "qv"]


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def network(scan, remat="nothing"):
    return Transformer(2, BLOCKS, 4, linear=True, dtype=jnp.float64, remat=remat, scan=scan)


def inputs():
    return draw(1, 2, 4, 6, CHANNELS), draw(2, 2, 5, 6)


def params():
    shapes = jax.eval_shape(network(scan=False).init, jax.random.key(0), *inputs())["params"]
    return trees.map_named(lambda name, leaf: draw(list(name.encode()), *leaf.shape) / 2, shapes)


def images():
    """Two, in float64, of which the blocks' second attentions have keys and values."""

    def pair(seed):
        return draw(seed, 2, 3, CHANNELS), draw(seed + 1, 2, 3, CHANNELS)

    with jax.enable_x64(True):
        return {f"transformer_blocks_{i}/attn2": (pair(10 * i + 20), pair(10 * i + 24)) for i in range(BLOCKS)}


def small_matrices(layers):
    """With dropout of a half."""
    wide = {"to_q": CHANNELS, "to_v": CHANNELS}
    return {
        path: Beside(
            down=draw(i + 50, 6 if path.endswith("attn2/to_v") else CHANNELS, 2),
            up=draw(i + 90, 2, wide[path[-4:]]),
            dropout=jnp.asarray(0.5),
        )
        for i, path in enumerate(layers)
    }


def results(module, layers, context):
    """(result, gradients of all that there is)."""

    def loss(params, x, text, images, deltas):
        text = Context(text, images) if images else text
        tree = attached({"unet": params}, {"unet": deltas}, keys=jax.random.split(jax.random.key(3), 2))["unet"]
        out = apply(module, tree, x, text)
        return jnp.sum(jnp.sin(out)), out

    floats = params(), *inputs(), context, small_matrices(layers)
    both = jax.value_and_grad(loss, argnums=tuple(range(5)), has_aux=True)
    (_, out), grads = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})(*floats)
    return out, grads


@pytest.mark.parametrize(
    ("remat", "layers", "context"),
    [
        pytest.param("nothing", (), {}, id="nothing", marks=pytest.mark.slow),
        pytest.param("attention", LAYERS, {}, id="attention", marks=pytest.mark.slow),
        pytest.param("blocks", LAYERS, images(), id="blocks"),
    ],
)
def test_a_loop_is_the_blocks_one_by_one(remat, layers, context):
    with jax.enable_x64(True):
        expected = results(network(scan=False), layers, context)
        found = results(network(scan=True, remat=remat), layers, context)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, float(jnp.abs(b).max())))


def traced(scan, remat="nothing", layers=()):
    def loss(params, x, text):
        keys = jax.random.split(jax.random.key(3), 2)
        tree = attached({"unet": params}, {"unet": small_matrices(layers)}, keys=keys)["unet"]
        return jnp.sum(apply(network(scan, remat), tree, x, text))

    return loss


@pytest.mark.parametrize(("layers", "loops"), [((), 1), (LAYERS, 1), (LAYERS[:1], 0)], ids=["nothing", "all", "one"])
def test_one_block_is_compiled(layers, loops):
    """Matrices next to layers of some blocks alone keep blocks from being a loop."""
    with jax.enable_x64(True):
        text = str(jax.make_jaxpr(traced(True, layers=layers))(params(), *inputs()))
    assert text.count(f"length={BLOCKS}") == loops


def test_only_what_blocks_are_given_is_kept():
    """Of a backward pass that computes blocks again: no second copy of their parameters is among it either."""
    with jax.enable_x64(True):
        given = params(), *inputs()
        own = {id(leaf) for leaf in jax.tree.leaves(given)}
        _, backward = jax.vjp(traced(True, "blocks"), *given)
        kept = [leaf.size for leaf in jax.tree.leaves(backward) if id(leaf) not in own]
        before_blocks = BLOCKS * given[1].size
        assert max(kept) == before_blocks
