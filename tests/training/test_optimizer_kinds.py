# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Laws of the optimizers that are optax's, as they are put together here."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax.training.optimizer_kinds import KINDS, averaged_weights, make_optimizer
from dreambooth_jax.training.rules import Rule, Treatment, by_treatment

RATE = 0.01
SHAPES = {"kernel": (3, 3, 4, 6), "dense": (8, 5), "bias": (6,)}
FOUND = [name for name, kind in KINDS.items() if kind.finds_rate]


def build(kind, schedule=None, **options):
    options = {"weight_decay": 0.0, "no_decay": [".*/bias"], "beta1": 0.9, "beta2": None, "eps": 1e-8} | options
    rate = 1.0 if KINDS[kind].finds_rate else RATE
    return make_optimizer(
        kind, schedule or optax.constant_schedule(rate), group="unet", steps=10, moments="float32", **options
    )


def tree(seed, scale=1.0):
    r = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * r.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def path(optimizer, grads=tree, steps=6):
    """(parameters, state) after some steps."""
    params = tree(0)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(grads(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def slope(params):
    """Of a sum of squares: what every optimizer must make smaller."""
    return jax.tree.map(lambda p: p - 1.0, params)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bowl_is_descended(kind):
    optimizer = build(kind, optax.constant_schedule(1.0 if KINDS[kind].finds_rate else 0.05))
    params = tree(0)
    start = optax.tree.norm(slope(params))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(300 if KINDS[kind].finds_rate else 100):
        updates, state = update(slope(params), state, params)
        params = optax.apply_updates(params, updates)
    assert optax.tree.norm(slope(averaged_weights(state, params))) < 0.7 * start


@pytest.mark.parametrize("kind", KINDS)
def test_decay_spares_whom_it_should_and_is_decoupled(kind):
    """One step with and one without: the difference is the rate times decay times the weight."""
    decay = 1e4 if KINDS[kind].finds_rate else 0.1  # a rate of a millionth in the first step
    plain, decaying = (path(build(kind, weight_decay=one), steps=1)[0] for one in (0.0, decay))
    np.testing.assert_array_equal(plain["bias"], decaying["bias"])
    shares = [np.asarray((plain[name] - decaying[name]) / tree(0)[name]).ravel() for name in ("kernel", "dense")]
    share = np.concatenate(shares)
    np.testing.assert_allclose(share, np.median(share), rtol=0.1, atol=1e-5)
    if KINDS[kind].finds_rate:
        assert np.median(share) > 1e-3
    elif kind != "schedule_free_adamw":
        np.testing.assert_allclose(np.median(share), RATE * decay, rtol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_from_nothing_is_finite(kind):
    warm = optax.linear_schedule(0.0, 1.0 if KINDS[kind].finds_rate else RATE, 3)
    params, _ = path(build(kind, warm))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(tree(0)))]
    assert min(moved) > 0


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"sgd"}))
def test_the_size_of_gradients_does_not_matter(kind):
    a, _ = path(build(kind, eps=0.0) if "eps" not in KINDS[kind].unused else build(kind))
    b, _ = path(build(kind, eps=0.0) if "eps" not in KINDS[kind].unused else build(kind), lambda step: tree(step, 64.0))
    for name in SHAPES:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("kind", FOUND)
def test_the_rate_that_is_found_grows_from_nearly_nothing(kind):
    constant = tree(1)
    rates = [float(path(build(kind), lambda step: constant, steps=n)[1].estim_lr) for n in (1, 20, 60)]
    assert rates[0] <= rates[1] <= rates[2]
    assert rates[2] > 5 * rates[0]


def test_schedule_free_is_the_papers_three_sequences():
    """Equations 2 to 4 of arXiv 2405.15682, with Adam's denominator; x is drawn with."""
    b1, b2, eps = 0.9, 0.999, 1e-8
    y = {name: np.asarray(leaf, np.float64) for name, leaf in tree(0).items()}
    x, z, v = (dict(y) for _ in range(3))
    v = {name: np.zeros_like(leaf) for name, leaf in v.items()}
    for step in range(1, 7):
        for name, grad in tree(step).items():
            g = np.asarray(grad, np.float64)
            v[name] = b2 * v[name] + (1 - b2) * g**2
            z[name] = z[name] - RATE * g / (np.sqrt(v[name] / (1 - b2**step)) + eps)
            x[name] = (1 - 1 / step) * x[name] + z[name] / step
            y[name] = (1 - b1) * z[name] + b1 * x[name]
    params, state = path(build("schedule_free_adamw"))
    for name in SHAPES:
        np.testing.assert_allclose(params[name], y[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(averaged_weights(state, params)[name], x[name], rtol=1e-4, atol=1e-5)


def test_averages_of_several_optimizers_are_joined():
    base = Treatment(RATE, 0.0, "constant", 0)
    rules = [Rule.parse("unet/dense rate=3")]
    optimizer = by_treatment(
        "unet",
        tree(0),
        rules=rules,
        base=base,
        make=lambda one: build("schedule_free_adamw", optax.constant_schedule(one.learning_rate)),
    )
    params, state = path(optimizer)
    found = averaged_weights(state, params)
    plain_params, plain_state = path(build("schedule_free_adamw"))
    plain = averaged_weights(plain_state, plain_params)
    np.testing.assert_allclose(found["kernel"], plain["kernel"], rtol=1e-5)
    moved, once = found["dense"] - tree(0)["dense"], plain["dense"] - tree(0)["dense"]
    np.testing.assert_allclose(moved, 3 * once, rtol=1e-3, atol=1e-5)


def test_others_draw_with_what_is_trained():
    params, state = path(build("adamw"))
    assert averaged_weights(state, params) is params


@pytest.mark.parametrize("name", ["kernel", "dense"])
def test_muons_step_is_nearly_orthogonal_and_of_adams_size(name):
    """All singular values alike, within what five steps of Newton-Schulz reach (0.7 to 1.2)."""
    params, _ = path(build("muon"), steps=1)
    moved = np.asarray(params[name] - tree(0)[name]).reshape(-1, SHAPES[name][-1]) / RATE
    values = np.linalg.svd(moved, compute_uv=False)
    assert values.max() / values.min() < 1.9
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.2, rel=0.25)


def test_muon_is_adam_for_vectors():
    muon, _ = path(build("muon"))
    adam, _ = path(build("adamw"))
    np.testing.assert_allclose(muon["bias"], adam["bias"], rtol=1e-5, atol=1e-6)


def test_ademamix_without_its_slow_moment_is_adam():
    """In the first step α is 0."""
    mixed, _ = path(build("ademamix"), steps=1)
    adam, _ = path(build("adamw"), steps=1)
    for name in SHAPES:
        np.testing.assert_allclose(mixed[name], adam[name], rtol=1e-5, atol=1e-6)
    later, _ = path(build("ademamix"))
    plain, _ = path(build("adamw"))
    assert np.abs(later["dense"] - plain["dense"]).max() > 1e-3
