# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A batch in two parts, of pictures of two sizes, costs what its pictures cost one by one, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from dreambooth_jax import rng
from dreambooth_jax.adapters import full
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.target import Target
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep

ROWS = 8
ROOT = 3


class Toy(nn.Module):
    """A network for pictures of any size, of which neighbours see each other."""

    @nn.compact
    def __call__(self, x, timesteps, condition):
        time = timesteps.astype(x.dtype)[:, None] / 1000
        told = nn.Dense(6, name="told", param_dtype=x.dtype)(jnp.concatenate([time, condition.states[:, 0]], axis=1))
        seen = nn.Conv(6, (3, 3), name="seen", param_dtype=x.dtype)(x)
        return nn.Conv(4, (3, 3), name="out", param_dtype=x.dtype)(nn.tanh(seen + told[:, None, None]))


def params(dtype):
    r = np.random.default_rng(0)
    shapes = {"told": (4, 6), "seen": (3, 3, 4, 6), "out": (3, 3, 6, 4)}
    layers = {name: {"kernel": 0.3 * r.normal(size=s), "bias": r.normal(size=s[-1])} for name, s in shapes.items()}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), {"unet": layers})


def part(size, *, first, is_prior, dtype):
    r = np.random.default_rng(first)
    return {
        "mean": r.normal(size=(ROWS, *size, 4)).astype(dtype),
        "logvar": r.normal(size=(ROWS, *size, 4)).astype(dtype),
        "condition/states": r.normal(size=(ROWS, 1, 3)).astype(dtype),
        "weight": np.full(ROWS, 0.3 if is_prior else 1, dtype),
        "is_prior": np.full(ROWS, is_prior),
        "index": np.arange(first, first + ROWS, dtype=np.int32),
    }


def parts(dtype):
    """Wide pictures of the subject, square ones of its class."""
    return part((4, 6), first=0, is_prior=False, dtype=dtype), part((5, 5), first=ROWS, is_prior=True, dtype=dtype)


def made(dtype, **options):
    """(step, frozen, state)."""
    objective = DenoisingObjective(
        unet=Toy(),
        conditioner=Conditioner((), SD.condition),
        schedule=NoiseSchedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.01}),
        scaling_factor=0.2,
        n_instances=ROWS,
    )
    adapter = full("unet/.*")
    frozen, trainable = adapter.init(rng.root_key(0), params(dtype))
    optimizers = {"unet": adamw(optax.constant_schedule(1e-2), group="unet")}
    step = TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=("unet",), **options)
    return step, frozen, init_state(trainable, optimizers, with_ema=False)


def gradients_of(step):
    return jax.jit(
        lambda frozen, state, batch: step.gradients(state.trainable, frozen, batch, rng.root_key(ROOT), jnp.int32(0))
    )


@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_parts_cost_what_their_pictures_cost_one_by_one(accumulation):
    with jax.enable_x64(True):
        step, frozen, state = made(np.float64, accumulation=accumulation)
        whole = gradients_of(step)(frozen, state, parts(np.float64))
        alone = gradients_of(made(np.float64)[0])
        one_by_one = [
            alone(frozen, state, {name: rows[i : i + 1] for name, rows in some.items()})
            for some in parts(np.float64)
            for i in range(ROWS)
        ]
        total = jax.tree.map(lambda *leaves: sum(leaves), *one_by_one)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(total), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)
        assert whole[1]["prior_loss"] > 0


def test_two_parts_are_the_same_on_one_device_and_on_eight():
    step, frozen, state = made(np.float32)
    expected, metrics = jax.jit(step)(state, frozen, jax.tree.map(jnp.asarray, parts(np.float32)), rng.root_key(ROOT))
    for kind in ("pmap", "fsdp"):
        mapper = make_mapper(kind, Target.here())
        own = tuple({name: rows[mapper.rows(ROWS)] for name, rows in some.items()} for some in parts(np.float32))
        placed = mapper.place(jax.tree.map(np.array, state)), mapper.place(frozen), mapper.place_batch(own)
        found, of_all = mapper.map(step)(*placed, rng.root_key(ROOT))
        np.testing.assert_allclose(of_all["loss"], metrics["loss"], rtol=1e-5)
        trained = mapper.logical(found).trainable
        for one, other in zip(jax.tree.leaves(trained), jax.tree.leaves(expected.trainable), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
