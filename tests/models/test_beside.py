# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What stands next to layers is what is put into their kernels: results and gradients, in float64."""

from functools import partial
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import ia3, lidb
from dreambooth_jax.adapters.dora import DORA
from dreambooth_jax.adapters.kernels import KernelMethod, kernel_adapter
from dreambooth_jax.adapters.lora import start as lora_start
from dreambooth_jax.adapters.low_rank import LORA, first_factors
from dreambooth_jax.adapters.rank_relaxed import RANK_RELAXED
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel, UNet2DConditionModel, UNetConfig
from dreambooth_jax.models.beside import Beside, apply, attached
from dreambooth_jax.models.components import CLIP_TEXT, UNET
from dreambooth_jax.training.members import member_of
from dreambooth_jax.weights.modules import parameter_shapes

REMATS = ("nothing", "blocks", "attention")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def scaled_draw(seed, *shape):
    """A kernel that keeps the size of what passes through it."""
    return draw(seed, *shape) / np.sqrt(np.prod(shape[:-1]))


class Layers(nn.Module):
    """All kinds of layers that networks have, some in a list and computed again."""

    def setup(self):
        self.first = [nn.remat(nn.Conv)(6, (3, 3), padding=1), nn.Conv(4, (1, 1))]
        self.half = nn.Conv(5, (3, 3), strides=2, padding=((1, 1), (1, 1)))
        self.lopsided = nn.Conv(5, (3, 3), strides=(2, 2), padding=((0, 1), (0, 1)))
        self.same = nn.Conv(5, (2, 3), padding="SAME", use_bias=False)
        self.dense = nn.Dense(7)
        self.bare = nn.Dense(3, use_bias=False)

    def __call__(self, x):
        for layer in self.first:
            x = jnp.sin(layer(x))
        x = jnp.sin(self.half(x)) + self.lopsided(x) * self.half(x)
        return self.bare(jnp.sin(self.dense(self.same(x))))


def shares(outputs, inputs):
    """(IA)³-like: factors of channels."""

    def kernel(kernel, tensors):
        return kernel * tensors["factors"].reshape(*[1] * (kernel.ndim - 2), *((1, -1) if outputs else (-1, 1)))

    def beside(kernel, tensors):
        return Beside(outputs=tensors["factors"]) if outputs else Beside(inputs=tensors["factors"])

    return KernelMethod("shares", kernel, beside)


def product(kernel, name):
    *inner, outputs = kernel.shape
    middle = [1] * (len(inner) - 1)
    down, up = scaled_draw(len(name), *inner, 2), scaled_draw(len(name) + 1, *middle, 2, outputs)
    return {"alpha": jnp.asarray(0.7)}, {"lora_down": down, "lora_up": up}


def relaxed(key, kernel):
    fixed, trained = lidb.start(key, kernel, seed=1, down=4, up=3)
    return {**fixed, **trained}, first_factors(key, kernel.shape, 2, jnp.float64)


WAYS = {
    "dora, inputs": (DORA, partial(lora_start, ranks=Ranks(2, alpha=3.0), dora="input")),
    "dora, outputs": (DORA, partial(lora_start, ranks=Ranks(2, alpha=3.0), dora="output")),
    "ia3": (ia3.IA3, lambda key, kernel: ia3.start(kernel, on_input=bool(kernel.shape[-1] % 2))),
    "lidb": (lidb.LIDB, partial(lidb.start, seed=3, rank=2, down=5, up=4)),
    "rank relaxed": (RANK_RELAXED, relaxed),
}
"""All that stands beside layers, but for low rank as it is."""


def way_of(tensors):
    """By the names of its tensors."""
    marks = {"dora_scale": "dora, inputs", "lora_down": "rank relaxed", "lidb_down": "lidb", "weight": "ia3"}
    return WAYS[next(way for mark, way in marks.items() if mark in tensors)][0]


def any_way(kernel, name):
    """One of them, by the layer's name, away from where it starts."""
    start = list(WAYS.values())[crc32(name.encode()) % len(WAYS)][1]
    fixed, trained = start(rng.root_key(0), kernel)
    return fixed, {one: leaf + 0.3 * draw(leaf.size, *leaf.shape) for one, leaf in trained.items()}


EVERY = KernelMethod(
    "every",
    lambda kernel, tensors: way_of(tensors).kernel(kernel, tensors),
    lambda kernel, tensors: way_of(tensors).beside(kernel, tensors),
)
METHODS = {
    "low rank": (LORA, product),
    "every way": (EVERY, any_way),
    "outputs": (shares(True, False), lambda kernel, name: ({}, {"factors": draw(len(name), kernel.shape[-1])})),
    "inputs": (shares(False, True), lambda kernel, name: ({}, {"factors": draw(len(name), kernel.shape[-2])})),
}


def adapter_of(method):
    method, tensors = METHODS[method]
    return kernel_adapter(method, lambda key, name, kernel: tensors(kernel, name))


def assert_the_same(modules, adapter, frozen, trainable, *inputs):
    """Results and gradients of all that is trained, and of the first input, of what is composed by the first module and
    of what is beside in each of them."""

    def loss(module, compose, trained, x):
        result = apply(module, compose(frozen, trained)["net"], x, *inputs[1:])
        return jnp.sum(jnp.sin(result)), result

    def run(module, compose):
        grads = jax.grad(loss, argnums=(2, 3) if jnp.issubdtype(inputs[0].dtype, jnp.floating) else 2, has_aux=True)
        return jax.jit(lambda trained, x: grads(module, compose, trained, x))(trainable, inputs[0])

    expected = run(modules[0], adapter.compose)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected[0]))
    for module in modules:
        found = run(module, lambda *trees: attached(*adapter.beside(*trees)))
        for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(expected[0]), strict=True):
            assert jnp.abs(a - b).max() <= 1e-12 * largest
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-12 * float(jnp.abs(expected[1]).max()))
    return expected[1]


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_layer(method):
    module, x = Layers(), draw(0, 2, 8, 10, 4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: scaled_draw(leaf.size, *leaf.shape), shapes)
    adapter = adapter_of(method)
    frozen, trainable = adapter.init(rng.root_key(0), {"net": params})
    result = assert_the_same([module], adapter, frozen, trainable, x)
    assert jnp.abs(result - module.apply({"params": params}, x)).max() > 0.1


@pytest.mark.parametrize("method", ["low rank", "outputs", "inputs"])
def test_rows_of_a_member_meet_its_own(method):
    """Two rows of each of three members: as three calls, gradients too."""
    module, x = Layers(), draw(0, 6, 8, 10, 4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    adapter = adapter_of(method)
    frozen, start = adapter.init(
        rng.root_key(0), jax.tree.map(lambda leaf: scaled_draw(leaf.size, *leaf.shape), {"net": shapes})
    )
    trainable = jax.tree.map(lambda leaf: jnp.stack([leaf * (1 + i) for i in range(3)]), start)

    def losses(trained, rows, apart):
        result = apply(module, attached(*apart(frozen, trained))["net"], rows)
        return jnp.sum(jnp.sin(result) * jnp.arange(result.shape[-1])[None, None, None]), result

    together = jax.vmap(adapter.members, in_axes=(None, 0), out_axes=(None, 0))
    grads, found = jax.jit(jax.grad(lambda *a: losses(*a, together), argnums=(0, 1), has_aux=True))(trainable, x)
    alone = jax.jit(jax.grad(lambda *a: losses(*a, adapter.beside), argnums=(0, 1), has_aux=True))
    for i in range(3):
        own = slice(2 * i, 2 * i + 2)
        expected, result = alone(member_of(trainable, i), x[own])
        np.testing.assert_allclose(found[own], result, rtol=1e-12, atol=1e-12)
        of_member = member_of(grads[0], i), grads[1][own]
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(of_member), jax.tree.leaves(expected), strict=True):
            assert jnp.abs(a - b).max() <= 1e-12 * largest


def random_params(kind, config):
    shapes = parameter_shapes(kind, kind.build(config))
    return trees.unflatten({name: scaled_draw(i, *shape.shape) for i, (name, shape) in enumerate(shapes.items())})


TINY = UNetConfig(
    sample_size=8,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
TEXT = CLIPTextConfig(vocab_size=50, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["low rank", "every way"])
def test_every_kernel_of_a_denoiser(method):
    """Those of convolutions and of strides of two included, whatever is computed again."""
    module = UNet2DConditionModel(TINY, dtype=jnp.float64)
    adapter = adapter_of(method)
    frozen, trainable = adapter.init(rng.root_key(0), {"net": random_params(UNET, TINY)})
    changed = {name.rpartition("/")[0] for name in trees.flatten(trainable)}
    assert len(changed) == len([name for name in trees.flatten(frozen) if name.endswith("/kernel")])
    inputs = draw(0, 2, 8, 8, 4), jnp.asarray([3, 700]), draw(1, 2, 5, 12)
    assert_the_same([module.clone(remat=remat) for remat in REMATS], adapter, frozen, trainable, *inputs)


@pytest.mark.parametrize("method", ["low rank", "every way"])
def test_every_kernel_of_a_text_encoder(method):
    module = CLIPTextModel(TEXT, dtype=jnp.float64)
    adapter = adapter_of(method)
    frozen, trainable = adapter.init(rng.root_key(0), {"net": random_params(CLIP_TEXT, TEXT)})
    names = {name.rpartition("/")[2] for name in trees.flatten(trainable)}
    every = {"dora_scale", "lora_down", "lora_up", "lidb_down", "lidb_up", "weight"}
    assert names == (every if method == "every way" else {"lora_down", "lora_up"})
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 50, (2, 77)))
    assert_the_same([module.clone(remat=remat) for remat in REMATS], adapter, frozen, trainable, ids)


@pytest.fixture
def dense():
    """(module, parameters, what stands beside it, input)"""
    one = Beside(down=draw(2, 4, 2), up=draw(3, 2, 3))
    return nn.Dense(3), {"net": {"kernel": draw(0, 4, 3), "bias": draw(1, 3)}}, one, draw(4, 5, 4)


class Holder(nn.Module):
    """A layer has a name in a network."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="inner")(x)


def test_twice_is_once(dense):
    """A network that is run inside another's run, each with its own."""
    _, params, one, x = dense
    params = attached({"net": {"inner": params["net"]}}, {"net": {"inner": one}})["net"]

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="inner")(x) + apply(Holder(), params, x).sum()

    kernel, bias = params["inner"]["kernel"], params["inner"]["bias"]
    inner = x @ (kernel + one.down @ one.up) + bias[None]
    np.testing.assert_allclose(apply(Holder(), params, x), inner, rtol=1e-12)
    outer = {"inner": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}}
    delta = Beside(down=draw(5, 4, 2), up=draw(6, 2, 3))
    found = apply(Outer(), attached({"net": outer}, {"net": {"inner": delta}})["net"], x)
    np.testing.assert_allclose(found, x @ delta.down @ delta.up + inner.sum(), rtol=1e-12)


def test_compiled_programs_are_not_mixed_up(dense):
    """jit's cache does not know of interceptors: the same function with and without."""
    _, params, one, x = dense
    plain = {"net": {"inner": params["net"]}}
    with_it = attached(plain, {"net": {"inner": one}})
    run = jax.jit(lambda params, x: apply(Holder(), params["net"], x))
    kernel, bias = params["net"]["kernel"], params["net"]["bias"]
    for _ in range(2):
        np.testing.assert_allclose(run(plain, x), x @ kernel + bias[None], rtol=1e-12)
        np.testing.assert_allclose(run(with_it, x), x @ (kernel + one.down @ one.up) + bias[None], rtol=1e-12)
    np.testing.assert_allclose(Holder().apply({"params": plain["net"]}, x), x @ kernel + bias[None], rtol=1e-12)


def test_what_has_no_layer_is_refused(dense):
    _, params, one, _ = dense
    with pytest.raises(ValueError, match="no layer outer to put"):
        attached({"net": {"inner": params["net"]}}, {"net": {"outer": one}})


def test_low_precision_stays(dense):
    """Small matrices in float32 do not widen what is computed in bfloat16."""
    _, params, one, x = dense

    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, dtype=jnp.bfloat16, name="inner")(x)

    found = apply(Half(), attached({"net": {"inner": params["net"]}}, {"net": {"inner": one}})["net"], x)
    expected = x @ (params["net"]["kernel"] + one.down @ one.up) + params["net"]["bias"][None]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float64), expected, rtol=0.03, atol=0.1)


class TestDropout:
    """Of the inputs of ``down``, from a key for each example."""

    RATE = 0.25

    def run(self, dense, x, keys, rate=RATE):
        _, params, one, _ = dense
        one = one._replace(dropout=jnp.asarray(rate))
        params = attached({"net": {"inner": params["net"]}}, {"net": {"inner": one}}, keys=keys)
        return apply(Holder(), params["net"], x)

    def test_without_keys_nothing_drops_out(self, dense):
        _, _, one, x = dense
        kernel, bias = (dense[1]["net"][name] for name in ("kernel", "bias"))
        np.testing.assert_allclose(self.run(dense, x, None), x @ (kernel + one.down @ one.up) + bias[None], rtol=1e-12)

    def test_inputs_of_the_small_matrices_alone_are_gone_or_larger(self, dense):
        _, params, one, _ = dense
        x = jnp.ones((200, 4))
        change = self.run(dense, x, rng.per_example(rng.root_key(0), jnp.arange(200))) - (
            x @ params["net"]["kernel"] + params["net"]["bias"][None]
        )
        possible = jnp.stack([jnp.asarray([(n >> bit) & 1 for bit in range(4)]) for n in range(16)]) / (1 - self.RATE)
        distances = jnp.abs(change[:, None] - (possible @ one.down @ one.up)[None]).max(-1)
        assert distances.min(1).max() < 1e-12
        kept = possible[distances.argmin(1)] > 0
        assert abs(float(kept.mean()) - (1 - self.RATE)) < 4 * np.sqrt(self.RATE * (1 - self.RATE) / kept.size)

    def test_an_example_has_its_own_wherever_it_lies(self, dense):
        x = draw(4, 6, 4)
        keys = rng.per_example(rng.root_key(3), jnp.arange(6))
        whole = self.run(dense, x, keys)
        np.testing.assert_allclose(self.run(dense, x[2:4], keys[2:4]), whole[2:4], rtol=1e-12)
        other = self.run(dense, x, rng.per_example(rng.root_key(4), jnp.arange(6)))
        assert jnp.abs(other - whole).max() > 1e-3

    def test_layers_differ(self):
        class Two(nn.Module):
            @nn.compact
            def __call__(self, x):
                return nn.Dense(3, name="a")(x) - nn.Dense(3, name="b")(x)

        layer = {"kernel": draw(0, 4, 3), "bias": draw(1, 3)}
        one = Beside(down=draw(2, 4, 2), up=draw(3, 2, 3), dropout=jnp.asarray(0.5))
        keys = rng.per_example(rng.root_key(0), jnp.arange(5))
        params = attached({"net": {"a": layer, "b": layer}}, {"net": {"a": one, "b": one}}, keys=keys)
        assert jnp.abs(apply(Two(), params["net"], draw(4, 5, 4))).max() > 1e-3

    def test_what_is_computed_again_draws_the_same(self, dense):
        """Or gradients would be those of another function."""
        _, params, one, x = dense

        class Again(nn.Module):
            again: bool

            @nn.compact
            def __call__(self, x):
                return jnp.sin((nn.remat(nn.Dense) if self.again else nn.Dense)(3, name="inner")(x))

        one = one._replace(dropout=jnp.asarray(0.5))
        keys = rng.per_example(rng.root_key(0), jnp.arange(5))

        def loss(up, again):
            deltas = {"net": {"inner": one._replace(up=up)}}
            params_ = attached({"net": {"inner": params["net"]}}, deltas, keys=keys)
            return jnp.sum(apply(Again(again), params_["net"], x) ** 2)

        grads = [jax.jit(jax.grad(loss), static_argnums=1)(one.up, again) for again in (False, True)]
        np.testing.assert_allclose(*grads, rtol=1e-12)
