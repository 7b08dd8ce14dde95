# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The real objective gives the same on one device, on eight with pmap, and on eight with fsdp, for every λ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng
from dreambooth_jax.adapters import full
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel, UNet2DConditionModel, UNetConfig
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.target import Target
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.trees import unflatten
from dreambooth_jax.weights.modules import parameter_shapes

N = 4
LAMBDAS = (0.0, 0.5, 1.0, 2.0)
UNET = UNetConfig.from_json(
    {
        "block_out_channels": [32],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 8,  # of several channels: in one alone the time is lost, its gradient noise
    }
)
TEXT = CLIPTextConfig.from_json(
    {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
)


@pytest.fixture(scope="module")
def objective():
    return DenoisingObjective(
        unet=UNet2DConditionModel(UNET),
        conditioner=Conditioner((("text_encoder", CLIPTextModel(TEXT)),), SD.condition),
        schedule=NoiseSchedule.from_config(
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        ),
        scaling_factor=0.18215,
        n_instances=N,
    )


def random_params(objective):
    r = np.random.default_rng(0)
    return {
        group: unflatten(
            {
                name: jnp.asarray(r.normal(size=leaf.shape, scale=max(leaf.shape[0], 8) ** -0.5), jnp.float32)
                for name, leaf in parameter_shapes(SD.components[group], module).items()
            }
        )
        for group, module in (("unet", objective.unet), *objective.conditioner.encoders)
    }


def batch(prior_weight):
    r = np.random.default_rng(1)
    is_prior = np.arange(2 * N) >= N
    return {
        "mean": r.normal(size=(2 * N, 8, 8, 4)).astype(np.float32),
        "logvar": r.normal(size=(2 * N, 8, 8, 4)).astype(np.float32),
        "input_ids/text_encoder": r.integers(0, 50, (2 * N, 77)).astype(np.int32),
        "weight": np.where(is_prior, prior_weight, 1).astype(np.float32),
        "is_prior": is_prior,
        "index": np.arange(2 * N, dtype=np.int32),
    }


@pytest.fixture(scope="module")
def results(objective):
    """For each mapper, its results with every λ: two steps each, on one compiled program."""
    adapter = full("unet/.*", "text_encoder/.*")
    optimizers = {g: adamw(optax.constant_schedule(1e-3), group=g) for g in ("unet", "text_encoder")}
    step = TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=tuple(optimizers))

    def run(mapper, mapped, prior_weight):
        frozen, trainable = adapter.init(rng.root_key(0), random_params(objective))
        state = mapper.place(init_state(trainable, optimizers, with_ema=False))
        metrics = []
        for _ in range(2):
            state, found = mapped(state, mapper.place(frozen), mapper.place_batch(batch(prior_weight)), rng.root_key(5))
            metrics.append({name: float(value) for name, value in found.items()})
        return metrics, jax.tree.map(np.asarray, mapper.logical(state).trainable)

    mappers = {
        "one": make_mapper("auto", Target.of(jax.devices()[:1])),
        "pmap": make_mapper("pmap", Target.of(jax.devices())),
        "fsdp": make_mapper("fsdp", Target.of(jax.devices())),
    }
    found = {}
    for name, mapper in mappers.items():
        mapped = mapper.map(step)
        found[name] = {weight: run(mapper, mapped, weight) for weight in LAMBDAS}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("prior_weight", LAMBDAS)
@pytest.mark.parametrize("name", ["pmap", "fsdp"])
def test_devices_do_not_matter(results, name, prior_weight):
    metrics, params = results["one"][prior_weight]
    found_metrics, found = results[name][prior_weight]
    for a, b in zip(metrics, found_metrics, strict=True):
        for key in a:
            assert b[key] == pytest.approx(a[key], rel=2e-5, abs=1e-7), key
    # Adam's first steps are the signs of the gradients: where one is zero to rounding, its sign is anybody's.
    moved = [np.abs(a - b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True)]
    assert np.concatenate([m.ravel() for m in moved]).mean() < 1e-8


@pytest.mark.slow
def test_lambda_weighs_the_prior_term_alone(results):
    first = {weight: results["one"][weight][0][0] for weight in LAMBDAS}
    for weight in LAMBDAS:
        assert first[weight]["instance_loss"] == pytest.approx(first[1.0]["instance_loss"], rel=1e-6)
        assert first[weight]["prior_loss"] == pytest.approx(weight * first[1.0]["prior_loss"], rel=1e-6)
        total = first[weight]["instance_loss"] + first[weight]["prior_loss"]
        assert first[weight]["loss"] == pytest.approx(total, rel=1e-6)


def test_noise_and_timesteps_are_each_examples_own(objective):
    """The prior term's ε and t are independent of the instance's (arXiv 2208.12242, equation 2)."""
    examples = {name: jnp.asarray(value) for name, value in batch(1.0).items()}
    draws = objective.draw(examples, root_key=rng.root_key(0), step=0)
    again = objective.draw(examples, root_key=rng.root_key(0), step=1)
    flat = np.asarray(draws.noise).reshape(2 * N, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(2 * N)).max() < 0.35
    assert len(set(np.asarray(draws.timesteps).tolist())) > N
    assert (np.asarray(draws.noise) != np.asarray(again.noise)).all()
    many = jnp.arange(4000, dtype=jnp.int32)
    wide = {"mean": jnp.zeros((4000, 1, 1, 1)), "logvar": jnp.zeros((4000, 1, 1, 1)), "index": many}
    timesteps = np.asarray(objective.draw(wide, root_key=rng.root_key(0), step=0).timesteps)
    assert timesteps.min() < 10
    assert timesteps.max() > 989
    assert abs(timesteps.mean() - 499.5) < 20


def test_rows_draw_the_same_wherever_they_lie(objective):
    examples = {name: jnp.asarray(value) for name, value in batch(1.0).items()}
    rows = jnp.asarray([6, 1, 3])
    whole = objective.draw(examples, root_key=rng.root_key(0), step=4)
    some = objective.draw({k: v[rows] for k, v in examples.items()}, root_key=rng.root_key(0), step=4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[rows]), some, whole)
