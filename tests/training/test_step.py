# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng
from dreambooth_jax.target import Target
from dreambooth_jax.training.optimizer import adamw, clip_by_global_norm, learning_rate_schedule
from dreambooth_jax.training.parallel import make_mapper
from tests.training import toy


def one_device():
    return make_mapper("auto", Target.of(jax.devices()[:1]))


def test_inactive_groups_keep_weights_and_moments_bit_for_bit():
    _, _, before = toy.setup()
    after, _ = toy.run(one_device(), active=("unet",))
    jax.tree.map(np.testing.assert_array_equal, before.trainable["text_encoder"], after.trainable["text_encoder"])
    jax.tree.map(np.testing.assert_array_equal, before.opt_state["text_encoder"], after.opt_state["text_encoder"])
    jax.tree.map(np.testing.assert_array_equal, before.ema["text_encoder"], after.ema["text_encoder"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.trainable["unet"], after.trainable["unet"])
    assert min(jax.tree.leaves(moved)) > 0


def test_the_average_of_what_rests_stays_where_it_was():
    """Also where it lags behind the weights, as after a stretch of training; else it would catch up with them."""
    step, frozen, state = toy.setup(active=("unet",))
    lagging = jax.tree.map(lambda leaf: leaf + 1, state.trainable)
    batch = jax.tree.map(jnp.asarray, toy.batch(0, 8, 1.0))
    after, _ = step(state.replace(ema=lagging), frozen, batch, rng.root_key(7))
    jax.tree.map(np.testing.assert_array_equal, after.ema["text_encoder"], lagging["text_encoder"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.ema["unet"], lagging["unet"])
    assert min(jax.tree.leaves(moved)) > 0


def test_the_clip_sees_only_what_is_trained():
    step, frozen, state = toy.setup(active=("unet",))
    batch = jax.tree.map(jnp.asarray, toy.batch(0, 8, 1.0))
    _, metrics = step(state, frozen, batch, rng.root_key(7))

    def loss(unet):
        return toy.objective(8)(frozen | state.trainable | {"unet": unet}, batch, root_key=rng.root_key(7), step=0)[0]

    grads = jax.grad(loss)(state.trainable["unet"])
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-6)


def test_prior_weight_zero_is_training_without_class_examples():
    with_prior, _ = toy.run(one_device(), prior_weight=0.0)
    step, frozen, state = toy.setup()
    for number in range(5):
        batch = {k: jnp.asarray(v[:8]) for k, v in toy.batch(number, 8, 0.0).items()}
        state, _ = step(state, frozen, batch, rng.root_key(7))
    for a, b in zip(jax.tree.leaves(with_prior.trainable), jax.tree.leaves(state.trainable), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_moving_average_of_constant_weights_is_those_weights():
    after, _ = toy.run(one_device(), learning_rate=0.0, ema_decay=0.999)
    jax.tree.map(np.testing.assert_array_equal, after.ema, after.trainable)


def test_moving_average_without_memory_is_the_newest_weights():
    """Decay near 0 follows, decay 1 would stay; in between the average lags behind."""
    quick, _ = toy.run(one_device(), ema_decay=1e-7)
    slow, _ = toy.run(one_device(), ema_decay=0.99)
    start = toy.setup()[2].trainable["unet"]["a"]["kernel"]
    newest = quick.trainable["unet"]["a"]["kernel"]
    np.testing.assert_allclose(quick.ema["unet"]["a"]["kernel"], newest, atol=1e-6)
    lag = slow.ema["unet"]["a"]["kernel"]
    assert np.abs(lag - start).mean() < 0.2 * np.abs(newest - start).mean()


def test_clip_scales_to_the_norm_and_leaves_small_gradients_alone():
    grads = {"a": jnp.asarray([3.0, 4.0])}
    clipped, norm = clip_by_global_norm(grads, 1.0)
    assert float(norm) == pytest.approx(5.0)
    assert float(optax.tree.norm(clipped)) == pytest.approx(1.0)
    np.testing.assert_array_equal(clip_by_global_norm(grads, 10.0)[0]["a"], grads["a"])
    np.testing.assert_array_equal(clip_by_global_norm(grads, None)[0]["a"], grads["a"])
    zero, norm = clip_by_global_norm({"a": jnp.zeros(2)}, 1.0)
    assert float(norm) == 0
    assert np.isfinite(zero["a"]).all()


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "polynomial", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_start_peak_and_end_where_they_should(kind, warmup):
    schedule = learning_rate_schedule(kind, peak=2.0, steps=20, warmup_steps=warmup)
    rates = np.asarray([schedule(step) for step in range(21)])
    assert rates[warmup] == pytest.approx(2.0)
    assert rates.max() == pytest.approx(2.0)
    np.testing.assert_allclose(rates[: warmup + 1], 2.0 * np.arange(warmup + 1) / max(warmup, 1) if warmup else 2.0)
    fallen = {"constant": 2.0, "inverse_sqrt": 2.0 * (1 + (20 - warmup) / (warmup or 10_000)) ** -0.5}
    assert rates[20] == pytest.approx(fallen.get(kind, 0.0), abs=1e-6)
    assert (np.diff(rates[warmup:]) <= 1e-9).all()


@pytest.mark.parametrize("warmup", [0, 4])
def test_restarts_are_cosines_one_after_the_other(warmup):
    schedule = learning_rate_schedule("cosine_restarts", peak=2.0, steps=warmup + 30, warmup_steps=warmup, cycles=3)
    rates = np.asarray([schedule(step) for step in range(warmup, warmup + 31)])
    one = learning_rate_schedule("cosine", peak=2.0, steps=10)
    np.testing.assert_allclose(rates[:30], [one(step) for step in range(10)] * 3, atol=1e-5)
    assert rates[30] == 0
    whole = learning_rate_schedule("cosine_restarts", peak=2.0, steps=30, cycles=1)
    plain = learning_rate_schedule("cosine", peak=2.0, steps=30)
    np.testing.assert_allclose([whole(step) for step in range(31)], [plain(step) for step in range(31)], atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 4])
def test_one_cycle_rises_to_its_peak_and_falls(warmup):
    schedule = learning_rate_schedule("one_cycle", peak=2.0, steps=20, warmup_steps=warmup)
    rates = np.asarray([schedule(step) for step in range(21)])
    top = warmup or 6
    assert rates[0] == pytest.approx(2.0 / 25)
    assert rates[top] == pytest.approx(2.0)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[20] < 1e-4


def test_polynomial_of_power_one_is_linear():
    a = learning_rate_schedule("polynomial", peak=1.0, steps=9, power=1.0)
    b = learning_rate_schedule("linear", peak=1.0, steps=9)
    np.testing.assert_allclose([a(i) for i in range(10)], [b(i) for i in range(10)], rtol=1e-6)


def test_spared_leaves_are_not_decayed():
    """With no gradient AdamW only decays: lr · decay · weight."""
    tx = adamw(optax.constant_schedule(0.1), group="unet", weight_decay=0.5, no_decay=[r"unet/.*/bias"])
    params = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["a"]["bias"], 0)
