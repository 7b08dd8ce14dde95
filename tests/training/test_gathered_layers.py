# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Layers that gather their parameters under fsdp compute what whole parameters do, in float64 and in any mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import full
from dreambooth_jax.adapters.kernel_kinds import KINDS
from dreambooth_jax.adapters.kernels import all_layers
from dreambooth_jax.config import AdapterConfig
from dreambooth_jax.models.beside import apply
from dreambooth_jax.models.layers import recomputed
from dreambooth_jax.models.resnet import ResnetBlock
from dreambooth_jax.models.unet_blocks import Transformer
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import make_mapper, sharded
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep

ROWS, CHANNELS = 8, 16
SHAPES = {"x": (ROWS, 4, 4, CHANNELS), "time": (ROWS, 8), "text": (ROWS, 5, 8)}


class Level(nn.Module):
    """What denoisers are made of: a resnet, and a transformer of two blocks."""

    remat: str
    scan: bool

    @nn.compact
    def __call__(self, x, time, text):
        resnet = recomputed(ResnetBlock, self.remat == "blocks")
        x = nn.Dense(CHANNELS, dtype=x.dtype, name="first")(x)
        x = resnet(CHANNELS, 4, 1e-5, dtype=x.dtype, name="resnet")(x, time)
        return Transformer(2, 2, 4, linear=True, dtype=x.dtype, remat=self.remat, scan=self.scan, name="transformer")(
            x, text
        )


@pytest.fixture(autouse=True)
def small_leaves_are_split_too(monkeypatch):
    monkeypatch.setattr(sharded, "SHARDING_THRESHOLD", 64)


def drawn(name, shape):
    return jnp.asarray(rng_of(name).normal(size=shape, scale=0.5))


def rng_of(name):
    return np.random.default_rng(list(name.encode()))


def step_and_state(adapter, remat="nothing", scan=False):
    """A step of gradient descent at a rate of one: what a parameter moves by is its gradient."""
    net = Level(remat, scan)

    def objective(params, batch, *, root_key, step):
        out = apply(net, params["unet"], *(batch[name] for name in SHAPES))
        return jnp.sum(jnp.sin(out) * out) / ROWS, {}

    like = jax.eval_shape(net.init, jax.random.key(0), *(drawn(*item) for item in SHAPES.items()))
    params = {"unet": trees.map_named(lambda name, leaf: drawn(name, leaf.shape), like["params"])}
    frozen, trainable = adapter.init(rng.root_key(0), params)
    # at an adapter's beginning half of a product's gradient is zero
    trainable = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), trainable)
    optimizers = dict.fromkeys(trainable, optax.sgd(1.0))
    step = TrainStep(
        objective=objective, adapter=adapter, optimizers=optimizers, active=tuple(trainable), clip_norm=None
    )
    return step, frozen, init_state(trainable, optimizers, with_ema=False)


def arguments(mapper, frozen, state):
    rows = {name: np.asarray(drawn(name, shape)) for name, shape in SHAPES.items()}
    rows["index"] = np.arange(ROWS, dtype=np.int32)
    return mapper.place(state), mapper.place(frozen), mapper.place_batch(rows), rng.root_key(5)


def moved(mapper, step, frozen, state):
    """(the loss, what each parameter moves by)."""
    before = jax.tree.map(np.array, state.trainable)
    state, metrics = mapper.map(step)(*arguments(mapper, frozen, jax.tree.map(jnp.copy, state)))
    return metrics["loss"], jax.tree.map(lambda a, b: a - np.asarray(b), before, state.trainable)


def assert_alike(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


def alone():
    return make_mapper("auto", Target.of(jax.devices()[:1]))


def spread(group):
    return make_mapper("fsdp", Target.of(jax.devices()), fsdp_devices=group)


def test_gradients_are_those_of_whole_parameters_in_any_mesh():
    adapter = full("unet/.*")
    with jax.enable_x64(True):
        expected = moved(alone(), *step_and_state(adapter))
        for group, remat, scan in ((8, "blocks", True), (4, "nothing", False), (1, "attention", True)):
            assert_alike(moved(spread(group), *step_and_state(adapter, remat, scan)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "ia3", "lokr"])
def test_gradients_of_adapters_are_those_of_whole_parameters(kind):
    """Beside the layers with lengths of kernels, as factors, and composed: every other kind takes one of these ways."""
    config = AdapterConfig(rank=4, dora="output" if kind == "lora" else None)
    adapter = KINDS[kind](config, all_layers)
    with jax.enable_x64(True):
        expected = moved(alone(), *step_and_state(adapter, "blocks"))
        for scan in (False, True):
            assert_alike(moved(spread(4), *step_and_state(adapter, "blocks", scan)), expected)


def test_what_a_block_computes_again_it_gathers_again():
    """So that nothing of it is kept from the forward pass to the backward pass: read off the program."""
    mapper = spread(8)

    def gathers(remat):
        step, frozen, state = step_and_state(full("unet/.*"), remat)
        text = mapper.map(step).lower(*arguments(mapper, frozen, state)).as_text()
        return len(re.findall(r"stablehlo.all_gather", text))

    params = trees.flatten(step_and_state(full("unet/.*"))[2].trainable)
    split = {name: leaf for name, leaf in params.items() if mapper.axis(leaf) != sharded.WHOLE}
    assert gathers("nothing") == len(split)
    in_blocks = [name for name in split if re.search("resnet|transformer_blocks", name)]
    kernels = [name for name in in_blocks if split[name].ndim > 1]  # the last bias of a block is not asked for again
    assert len(kernels) <= gathers("blocks") - len(split) <= len(in_blocks)
