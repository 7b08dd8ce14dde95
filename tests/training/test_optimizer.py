# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of the optimizers, and that their states, whatever their shapes and dtypes, are sharded, saved and resumed."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import full, lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.config import OptimizerConfig
from dreambooth_jax.models.parts import whole
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup.groups import optimizer_with
from dreambooth_jax.training.checkpoint import Checkpoints
from dreambooth_jax.training.optimizer import adafactor, adamw, lion
from dreambooth_jax.training.optimizer_kinds import make_optimizer
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.rules import Treatment
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import nbytes

RATE, DECAY = 0.01, 0.1
KINDS = (
    *("adamw", "adamw bfloat16", "lion bfloat16", "adafactor", "sgd", "muon", "muon bfloat16", "ademamix"),
    *("prodigy", "dadapt_adamw", "schedule_free_adamw"),
)
SHAPES = {"kernel": (3, 3, 128, 256), "dense": (136, 264), "bias": (256,)}


def optimizer(kind):
    name, _, moments = kind.partition(" ")
    options = {"weight_decay": DECAY, "no_decay": ["unet/bias"], "beta1": 0.9, "beta2": None, "eps": 1e-8}
    schedule = optax.constant_schedule(RATE)
    return make_optimizer(name, schedule, group="unet", steps=20, moments=moments or "float32", **options)


def tree(seed, scale=1.0):
    r = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * r.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def first_update(kind, grads):
    params, tx = tree(0), optimizer(kind)
    return tx.update(grads, tx.init(params), params)[0], params


@pytest.mark.parametrize("make", [adamw, lion, adafactor])
def test_decay_is_the_learning_rates_and_spares_whom_it_should(make):
    """With no gradient all of them only decay: lr · decay · weight."""
    tx = make(optax.constant_schedule(RATE), group="unet", weight_decay=DECAY, no_decay=["unet/bias"])
    params = tree(0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_array_equal(updates["bias"], 0)
    for name in ("kernel", "dense"):
        np.testing.assert_allclose(updates[name], -RATE * DECAY * params[name], rtol=1e-5)


def test_lengths_of_dora_are_not_decayed():
    """They are norms, not changes that rest at 0: decayed, they would shrink what they are the lengths of."""
    adapter = lora(choose_layers(unet=["full"]), ranks=Ranks(2), dora="output")
    _, trainable = adapter.init(rng.root_key(0), {"unet": {"conv_in": {"kernel": jnp.ones((3, 3, 4, 8))}}})
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), trainable["unet"])
    treatment, schedule = Treatment(RATE, DECAY, "constant", 0), optax.constant_schedule(RATE)
    tx = optimizer_with(OptimizerConfig(), "unet", treatment, schedule, 1)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    change = {name.rpartition("/")[2]: np.unique(leaf).tolist() for name, leaf in trees.flatten(updates).items()}
    decay = np.float32(-RATE * DECAY)
    assert change == {"dora_scale": [0], "lora_down": [pytest.approx(decay)], "lora_up": [pytest.approx(decay)]}


def test_lions_first_step_is_the_sign():
    grads = tree(1)
    updates, params = first_update("lion bfloat16", grads)
    for name in SHAPES:
        decay = 0 if name == "bias" else DECAY
        np.testing.assert_allclose(updates[name], -RATE * (jnp.sign(grads[name]) + decay * params[name]), rtol=1e-5)


def test_adafactors_step_has_the_learning_rate_for_its_size_and_does_not_see_the_gradients():
    updates, params = first_update("adafactor", tree(1))
    scaled, _ = first_update("adafactor", tree(1, scale=1e-3))
    for name in SHAPES:
        step = updates[name] + RATE * (0 if name == "bias" else DECAY) * params[name]
        assert jnp.sqrt(jnp.mean(step**2)) == pytest.approx(RATE, rel=0.02)
        np.testing.assert_allclose(scaled[name], updates[name], rtol=1e-3, atol=1e-5 * RATE)


def test_adafactor_is_exact_where_squared_gradients_are_a_product():
    """Rows and columns tell all of a matrix of rank one: its first step is the sign of the gradient, as Adam's is."""
    r = np.random.default_rng(3)
    row, column = (np.exp(r.normal(size=n)).astype(np.float32) for n in SHAPES["dense"])
    sign = r.choice(np.asarray([-1, 1], np.float32), SHAPES["dense"])
    updates, params = first_update("adafactor", tree(1) | {"dense": jnp.asarray(sign * np.outer(row, column))})
    np.testing.assert_allclose(updates["dense"] + RATE * DECAY * params["dense"], -RATE * sign, rtol=1e-3, atol=1e-6)


def test_bytes_of_the_state():
    params = jax.eval_shape(lambda: tree(0))
    size = {kind: nbytes(jax.eval_shape(optimizer(kind).init, params)) / nbytes(params) for kind in KINDS}
    assert size["adamw"] == pytest.approx(2, rel=1e-3)
    assert size["adamw bfloat16"] == pytest.approx(1.5, rel=1e-3)
    assert size["lion bfloat16"] == pytest.approx(0.5, rel=1e-3)
    assert size["adafactor"] < 0.05
    expected = {"sgd": 1, "muon": 1, "muon bfloat16": 0.5, "ademamix": 3, "prodigy": 4, "dadapt_adamw": 3}
    for kind, units in {**expected, "schedule_free_adamw": 2}.items():
        assert size[kind] == pytest.approx(units, rel=0.01), kind


@pytest.mark.parametrize("make", [adamw, lion])
def test_a_bfloat16_moment_is_the_float32_one_but_for_its_rounding(make):
    """A rounding of 2⁻⁹ at each step, of which a beta1 of 0.9 remembers ten."""

    def run(moments):
        tx = make(optax.constant_schedule(RATE), group="unet", weight_decay=DECAY, moments=moments)
        update = jax.jit(tx.update)
        params = {"dense": tree(0)["dense"]}
        state = tx.init(params)
        for step in range(20):
            # a steady direction with noise about it, as gradients have
            grads = jax.tree.map(lambda a, b: a + 0.3 * b, {"dense": tree(1)["dense"]}, {"dense": tree(step)["dense"]})
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params["dense"], state

    (exact, _), (rough, state) = run("float32"), run("bfloat16")
    assert state[0].mu["dense"].dtype == jnp.bfloat16
    if make is adamw:
        assert state[0].nu["dense"].dtype == jnp.float32
    moved = jnp.abs(exact - tree(0)["dense"]).mean()
    assert 0 < jnp.abs(rough - exact).mean() < 10 * 2**-9 * moved


@cache
def problem(kind):
    """(step, state) of a linear regression whose matrices are large enough to be factored and sharded."""
    adapter, optimizers = full("unet/.*"), {"unet": optimizer(kind)}
    _, trainable = adapter.init(rng.root_key(0), {"unet": tree(0)})

    def loss(params, batch, *, root_key, step):
        unet = whole(params["unet"])
        error = jnp.mean((batch["x"] @ unet["dense"] - 1) ** 2)
        return (error + jnp.mean(unet["kernel"] ** 2) + jnp.mean(unet["bias"])) * len(batch["x"]) / 8, {}

    step = TrainStep(objective=loss, adapter=adapter, optimizers=optimizers, active=("unet",), ema_decay=0.5)
    return step, init_state(trainable, optimizers, with_ema=True)


@cache
def mapped_by(mapper, kind):
    return mapper.map(problem(kind)[0])


def run(mapper, kind, *, first=0, steps=4, state=None):
    mapped = mapped_by(mapper, kind)
    placed = mapper.place(jax.tree.map(jnp.copy, problem(kind)[1]) if state is None else state)
    for number in range(first, first + steps):
        x = np.random.default_rng(number).normal(size=(8, SHAPES["dense"][0])).astype(np.float32)
        placed, _ = mapped(placed, {}, mapper.place_batch({"x": x}), rng.root_key(0))
    return placed


def assert_same(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), **{"rtol": 0} | tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_saved_by_one_mapper_and_resumed_by_any(tmp_path, kind):
    mappers = {
        name: make_mapper(name, Target.of(jax.devices()[:n])) for name, n in (("auto", 1), ("pmap", 4), ("fsdp", 4))
    }
    shapes = jax.eval_shape(lambda state: state, problem(kind)[1])
    whole = run(mappers["fsdp"], kind)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(run(mappers["fsdp"], kind, steps=2), step=2, meta={})
    checkpoints.wait()
    for name, mapper in mappers.items():
        restored = checkpoints.restore(mapper.restore_target(shapes), step=2)
        resumed = mapper.logical(run(mapper, kind, first=2, steps=2, state=restored))
        # where the mapper stays, nothing changes; other mappers add up gradients in another order
        assert_same(resumed, whole, **({} if name == "fsdp" else {"rtol": 0.02, "atol": 2e-3 * RATE}))
    checkpoints.close()


@pytest.mark.parametrize("kind", KINDS)
def test_fsdp_splits_every_large_leaf_of_the_state_and_keeps_it_split(kind):
    mapper = make_mapper("fsdp", Target.of(jax.devices()))
    state = run(mapper, kind, steps=1)
    for leaf in jax.tree.leaves(state):
        part = leaf.addressable_shards[0].data
        assert part.size * 8 == leaf.size or leaf.size < 2**12
    assert any(leaf.size < 2**12 for leaf in jax.tree.leaves(state))
