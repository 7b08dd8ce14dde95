# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Five training steps of LoRA in Stable Diffusion XL beside PyTorch: in the UNet and in both text encoders."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters.lora import lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.weights import names
from tests import torch_models
from tests.training.test_parity import (
    DECAY,
    RATES,
    ROOT_SEED,
    STEPS,
    WEIGHTS,
    batch_at,
    networks_of,
    objective_for,
    told,
    unread,
)

pytestmark = [pytest.mark.parity, pytest.mark.slow]
KIND = torch_models.XL
RANK, ALPHA = 3, 1.5


def ours(models):
    """(losses, draws of each step, matrices at first, matrices at last)."""
    objective, networks = objective_for(models, np.float64), networks_of(KIND)
    targets = choose_layers(unet=("attn-mlp",), text_encoder=("attn-mlp",))
    adapter = lora(targets, ranks=Ranks(RANK, alpha=ALPHA))
    params = {name: torch_models.params_from_torch(getattr(models, name)) for name in networks}
    frozen, trainable = adapter.init(rng.root_key(0), jax.tree.map(jnp.array, params))
    start = {name: np.array(leaf) for name, leaf in trees.flatten(trainable).items()}
    optimizers = {g: adamw(optax.constant_schedule(100 * RATES[g]), group=g, weight_decay=DECAY) for g in networks}
    step = jax.jit(
        TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=networks),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = init_state(trainable, optimizers, with_ema=False)
    root, losses, draws = rng.root_key(ROOT_SEED), [], []
    for number in range(STEPS):
        batch = {name: jnp.asarray(value) for name, value in batch_at(number, np.float64, KIND).items()}
        draws.append(jax.tree.map(np.asarray, objective.draw(batch, root_key=root, step=number)))
        state, metrics = step(state, frozen, batch, root)
        losses.append(float(metrics["loss"]))
    return losses, draws, start, trees.flatten(state.trainable)


class Changed:
    """A network of PyTorch's that is called with changed weights: W + α / r (down up)ᵀ."""

    def __init__(self, network, matrices):
        self.network, self.matrices = network, matrices
        self.weights = dict(network.named_parameters())

    def __call__(self, *args, **kwargs):
        import torch

        changed = {}
        for layer in {name.rpartition("/")[0] for name in self.matrices}:
            name = names.torch_name(f"{layer}/kernel")
            name = name if name in self.weights else name.removeprefix("text_model.")
            down, up = self.matrices[f"{layer}/lora_down"], self.matrices[f"{layer}/lora_up"]
            change = (down.flatten(0, -2) @ up.flatten(0, -2)).T
            changed[name] = self.weights[name] + ALPHA / RANK * change.reshape(self.weights[name].shape)
        return torch.func.functional_call(self.network, changed, args, kwargs)


def theirs(models, draws, start):
    """(losses, matrices at last)."""
    import torch

    schedule = NoiseSchedule.from_config(torch_models.scheduler_config(KIND))
    matrices = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in start.items()}
    networks = networks_of(KIND)
    own = {
        network: {
            re.sub(f"^{network}/", "", name): leaf for name, leaf in matrices.items() if name.split("/")[0] == network
        }
        for network in networks
    }
    groups = [{"params": list(own[name].values()), "lr": 100 * RATES[name]} for name in networks]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)

    class Models:
        kind = KIND

    for name in networks:
        setattr(Models, name, Changed(getattr(models, name).requires_grad_(False), own[name]))
    losses = []
    for number, draw in enumerate(draws):
        batch = batch_at(number, np.float64, KIND)
        latents, noise = (torch.tensor(np.moveaxis(x, -1, 1)) for x in (draw.latents, draw.noise))
        timesteps = torch.tensor(draw.timesteps)
        alpha_bar = torch.tensor(schedule.alphas_cumprod.astype(np.float64))[timesteps.long()].reshape(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        text, added = told(Models, batch)
        prediction = Models.unet(noisy, timesteps, text, added_cond_kwargs=added).sample
        errors = ((prediction - noise) ** 2).mean(dim=(1, 2, 3))
        loss = (torch.tensor(WEIGHTS) * errors).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        read = [leaf for leaf in matrices.values() if leaf.grad is not None]
        norm = torch.sqrt(sum((leaf.grad**2).sum() for leaf in read)).clamp(min=1)
        for leaf in read:
            leaf.grad /= norm
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: leaf.detach().numpy() for name, leaf in matrices.items()}


def test_five_steps_are_pytorchs():
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    with jax.enable_x64(True):
        models = torch_models.build(KIND, double=True)
        losses, draws, start, found = ours(models)
        expected_losses, expected = theirs(models, draws, start)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    assert found.keys() == expected.keys()
    assert {name.split("/")[0] for name in found} == set(networks_of(KIND))
    for name, leaf in expected.items():
        if unread(name, KIND):  # nothing of it is used, neither here nor there
            np.testing.assert_array_equal(leaf, start[name])
            kept = (1 - 100 * RATES["text_encoder"] * DECAY) ** STEPS
            np.testing.assert_allclose(found[name], kept * leaf, rtol=1e-6)
            continue
        assert np.abs(np.asarray(found[name]) - leaf).max() <= 1e-9 * max(1, np.abs(leaf).max()), name
        assert np.abs(leaf - start[name]).max() > 1e-4, f"{name} never moved"
