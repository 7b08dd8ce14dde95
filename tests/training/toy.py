# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A toy network with the real objective's contract: two groups, per-example keys, weights, sums over n_instances."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreambooth_jax import rng
from dreambooth_jax.adapters import full
from dreambooth_jax.models.parts import whole
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep

WIDTH = 64


def params(seed: int = 0):
    """Two trained groups and a frozen one."""
    r = np.random.default_rng(seed)

    def dense(n_in, n_out):
        return {
            "kernel": r.normal(size=(n_in, n_out), scale=n_in**-0.5).astype(np.float32),
            "bias": r.normal(size=n_out).astype(np.float32),
        }

    tree = {"unet": {"a": dense(8, WIDTH), "b": dense(WIDTH, 4)}, "text_encoder": dense(6, 8), "vae": dense(2, 2)}
    return jax.tree.map(jnp.asarray, tree)


def objective(n_instances: int):
    """Noisy regression through both groups."""

    def loss(p, batch, *, root_key, step):
        p = whole(p)
        keys = rng.per_example(rng.stream(root_key, "noise", step), batch["index"])
        noise = jax.vmap(lambda k: jax.random.normal(k, (4,)))(keys)
        text = batch["text"] @ p["text_encoder"]["kernel"] + p["text_encoder"]["bias"][None]
        hidden = jnp.tanh(text @ p["unet"]["a"]["kernel"] + p["unet"]["a"]["bias"][None])
        out = hidden @ p["unet"]["b"]["kernel"] + p["unet"]["b"]["bias"][None]
        errors = jnp.mean((out - noise) ** 2, axis=1)
        return jnp.sum(batch["weight"] * errors) / n_instances, {"prior_loss": jnp.sum(errors * batch["is_prior"])}

    return loss


def batch(step: int, n_instances: int, prior_weight: float):
    """Instances, then as many class examples; each picture has a weight of its own."""
    r = np.random.default_rng(step)
    n = n_instances * 2
    is_prior = np.arange(n) >= n_instances
    return {
        "text": r.normal(size=(n, 6)).astype(np.float32),
        "weight": (np.where(is_prior, prior_weight, 1.0) * picture_weights(n)).astype(np.float32),
        "is_prior": is_prior,
        "index": np.arange(n, dtype=np.int32),
    }


def picture_weights(n: int):
    """Of pictures, as a table of a folder may have them: 0 to 2."""
    return np.resize([1.0, 0.5, 2.0, 0.0, 1.5], n)


def setup(*, n_instances=8, active=("text_encoder", "unet"), ema_decay=0.9, learning_rate=1e-2, **options):
    """(step, frozen, state)."""
    adapter = full("unet/.*", "text_encoder/.*")
    frozen, trainable = adapter.init(rng.root_key(0), params())
    optimizers = {g: adamw(optax.constant_schedule(learning_rate), group=g, no_decay=[r".*/bias"]) for g in trainable}
    step = TrainStep(
        objective=objective(n_instances),
        adapter=adapter,
        optimizers=optimizers,
        active=active,
        ema_decay=ema_decay,
        **options,
    )
    return step, frozen, init_state(trainable, optimizers, with_ema=ema_decay > 0)


def run(mapper, *, steps=5, first=0, n_instances=8, prior_weight=1.0, state=None, seed=7, **options):
    """(logical state, losses) after some steps under a mapper."""
    step, frozen, fresh = setup(n_instances=n_instances, **options)
    placed = mapper.place(fresh if state is None else state)
    frozen = mapper.place(frozen)
    mapped = mapper.map(step)
    losses = []
    for number in range(first, first + steps):
        whole = batch(number, n_instances, prior_weight)
        rows = mapper.rows(2 * n_instances)
        own = mapper.place_batch({name: values[rows] for name, values in whole.items()})
        placed, metrics = mapped(placed, frozen, own, rng.root_key(seed))
        losses.append(float(metrics["loss"]))
    return mapper.logical(placed), losses
