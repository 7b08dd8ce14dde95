# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Five training steps beside PyTorch: same noise, timesteps and data; AdamW, clip, prior term, text encoder too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import full
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel, UNet2DConditionModel, UNetConfig
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from tests import torch_models

pytestmark = pytest.mark.parity

STEPS = 5
RATES = {"unet": 1e-4, "text_encoder": 3e-5}
WEIGHTS = np.asarray([1.0, 1.0, 0.7, 0.7])
ROOT_SEED = 11


def batch_at(step, dtype):
    r = np.random.default_rng(step)
    return {
        "mean": r.normal(size=(4, 8, 8, 4)).astype(dtype),
        "logvar": r.normal(size=(4, 8, 8, 4), loc=-3).astype(dtype),
        "input_ids/text_encoder": r.integers(0, 553, size=(4, 77)).astype(np.int32),
        "weight": WEIGHTS.astype(dtype),
        "is_prior": np.asarray([False, False, True, True]),
        "index": np.arange(4, dtype=np.int32),
    }


def objective_for(models, dtype):
    text = CLIPTextConfig.from_json(torch_models.config_json(models.text_encoder))
    text_encoder = CLIPTextModel(text, dtype=dtype)
    return DenoisingObjective(
        unet=UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(models.unet)), dtype=dtype),
        conditioner=Conditioner((("text_encoder", text_encoder),), SD.condition),
        schedule=NoiseSchedule.from_config(torch_models.scheduler_config(models.kind)),
        scaling_factor=0.18215,
        n_instances=2,
    )


def ours(models, dtype):
    """(losses, draws of each step, parameters after the last)."""
    objective = objective_for(models, dtype)
    adapter = full("unet/.*", "text_encoder/.*")
    params = {name: torch_models.params_from_torch(getattr(models, name)) for name in RATES}
    params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype), params)  # a copy: PyTorch trains its own in place
    frozen, trainable = adapter.init(rng.root_key(0), params)
    optimizers = {g: adamw(optax.constant_schedule(RATES[g]), group=g, weight_decay=1e-2) for g in RATES}
    step = jax.jit(
        TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=tuple(RATES)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = init_state(trainable, optimizers, with_ema=False)
    root, losses, draws = rng.root_key(ROOT_SEED), [], []
    for number in range(STEPS):
        batch = {name: jnp.asarray(value) for name, value in batch_at(number, dtype).items()}
        draws.append(jax.tree.map(np.asarray, objective.draw(batch, root_key=root, step=number)))
        state, metrics = step(state, frozen, batch, root)
        losses.append(float(metrics["loss"]))
    return losses, draws, state.trainable


def theirs(models, dtype, draws):
    """The same with torch.optim.AdamW; (losses, parameters)."""
    import torch

    schedule = NoiseSchedule.from_config(torch_models.scheduler_config(models.kind))
    networks = [getattr(models, name) for name in RATES]
    parameters = [p for network in networks for p in network.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": list(n.parameters()), "lr": rate} for n, rate in zip(networks, RATES.values())], weight_decay=1e-2
    )
    losses = []
    for number, draw in enumerate(draws):
        latents, noise = (torch.tensor(np.moveaxis(x, -1, 1)) for x in (draw.latents, draw.noise))
        timesteps = torch.tensor(draw.timesteps)
        alpha_bar = torch.tensor(schedule.alphas_cumprod.astype(dtype))[timesteps.long()].reshape(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        text = models.text_encoder(torch.tensor(batch_at(number, dtype)["input_ids/text_encoder"]).long())[0]
        prediction = models.unet(noisy, timesteps, text).sample
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        target = velocity if models.kind == "sd21" else noise
        errors = ((prediction - target) ** 2).mean(dim=(1, 2, 3))
        loss = (torch.tensor(WEIGHTS.astype(dtype)) * errors).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        # clip_grad_norm_ adds 1e-6 to the norm, which float64 would see
        norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
        assert norm > 1, "the clip must have something to do"
        for p in parameters:
            p.grad /= norm
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: torch_models.params_from_torch(getattr(models, name)) for name in RATES}


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    ("kind", "double"), [pytest.param("sd15", False, **SLOW), pytest.param("sd15", True, **SLOW), ("sd21", True)]
)
def test_five_steps_are_pytorchs(kind, double):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    dtype, tolerance = (np.float64, 1e-9) if double else (np.float32, 1e-5)
    with jax.enable_x64(double):
        models = torch_models.build(kind, double=double)
        start = {name: torch_models.params_from_torch(getattr(models, name)) for name in RATES}
        start = {name: np.array(leaf) for name, leaf in trees.flatten(start).items()}
        losses, draws, params = ours(models, dtype)
        expected_losses, expected = theirs(models, dtype, draws)
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    found, expected = trees.flatten(params), trees.flatten(expected)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert np.abs(np.asarray(found[name]) - leaf).max() <= tolerance * max(1, np.abs(leaf).max()), name
        assert np.abs(leaf - start[name]).max() > 10 * tolerance or name.endswith("k_proj/bias"), f"{name} never moved"
