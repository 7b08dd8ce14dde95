# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""LoRA and DoRA beside PEFT's: gradients, and five training steps of a denoiser and a text encoder."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from tests import torch_models
from tests.training.test_parity import ROOT_SEED, STEPS, WEIGHTS, batch_at, objective_for

pytestmark = [pytest.mark.parity, pytest.mark.slow]

RANKS = Ranks(3, alpha=2.0)
LAYERS = choose_layers(unet=["attn-mlp-conv"], text_encoder=["attn-mlp"])
TARGETS = {
    "unet": r".*\.(proj_in|proj_out|to_[qkv]|to_out\.0|net\.0\.proj|net\.2|conv[12]?|conv_shortcut|time_emb_proj)",
    "text_encoder": r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
}
"""The same layers, as PEFT is told them."""
NAMES = {"lora_A": "lora_down", "lora_B": "lora_up", "lora_magnitude_vector": "dora_scale"}

RATES = {"unet": 1e-4, "text_encoder": 3e-5}


def with_peft(models, *, use_dora):
    """network -> our name of a tensor -> PEFT's parameter, all of them random."""
    import peft
    import torch

    generator = torch.Generator().manual_seed(5)
    found = {}
    for network, targets in TARGETS.items():
        config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=targets, use_dora=use_dora)
        model = peft.inject_adapter_in_model(config, getattr(models, network))
        found[network] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" not in name:
                continue
            path, tensor = re.fullmatch(r"(.*)\.(lora_\w+)\.default\.weight", name).groups()
            layer = re.sub(r"\.(\d+)", r"_\1", path).replace(".", "/")
            prefix = "text_model/" if network == "text_encoder" and not layer.startswith("text_model/") else ""
            with torch.no_grad():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                if tensor == "lora_magnitude_vector":
                    parameter.mul_(1 + 0.1 * noise)
                else:
                    parameter.copy_(0.3 * noise / parameter[0].numel() ** 0.5)
            found[network][f"{prefix}{layer}/{NAMES[tensor]}"] = parameter
    return found


def leaves_of(parameters, value=lambda parameter: parameter.detach()):
    """Laid out as kernels."""

    def leaf(name, array):
        if name.endswith("dora_scale"):
            return array.reshape(*[1] * max(array.ndim - 1, 1), -1)
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    return {
        network: {name: np.array(leaf(name, value(parameter).numpy())) for name, parameter in named.items()}
        for network, named in parameters.items()
    }


def ours(models, base, start, dtype, *, dora):
    """(losses, gradients of the first step, draws of each step, what was trained)."""
    objective = objective_for(models, dtype)
    adapter = lora(LAYERS, ranks=RANKS, dora=dora)
    frozen, trainable = adapter.init(rng.root_key(0), jax.tree.map(lambda leaf: jnp.array(leaf, dtype), base))
    assert {network: trees.flatten(tree).keys() for network, tree in trainable.items()} == {
        network: named.keys() for network, named in start.items()
    }
    trainable = {network: trees.unflatten(jax.tree.map(jnp.asarray, named)) for network, named in start.items()}
    optimizers = {g: adamw(optax.constant_schedule(RATES[g]), group=g, weight_decay=1e-2) for g in RATES}
    step = TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=tuple(RATES))
    state, root = init_state(trainable, optimizers, with_ema=False), rng.root_key(ROOT_SEED)

    @jax.jit
    def run(state, batch):
        grads, metrics = step.gradients(state.trainable, frozen, batch, root, state.step)
        return step.update(state, grads, metrics), grads

    losses, draws, first = [], [], None
    for number in range(STEPS):
        batch = {name: jnp.asarray(value) for name, value in batch_at(number, dtype, models.kind).items()}
        draws.append(jax.tree.map(np.asarray, objective.draw(batch, root_key=root, step=number)))
        (state, metrics), grads = run(state, batch)
        losses.append(float(metrics["loss"]))
        first = grads if first is None else first
    first, trained = (jax.tree.map(np.asarray, trees.flatten(tree)) for tree in (first, state.trainable))
    return losses, first, draws, trained


def theirs(models, parameters, dtype, draws):
    """(losses, gradients of the first step, what was trained)."""
    import torch

    schedule = NoiseSchedule.from_config(torch_models.scheduler_config(models.kind))
    groups = [{"params": list(parameters[network].values()), "lr": rate} for network, rate in RATES.items()]
    everything = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    losses, first = [], None
    for number, draw in enumerate(draws):
        latents, noise = (torch.tensor(np.moveaxis(x, -1, 1)) for x in (draw.latents, draw.noise))
        timesteps = torch.tensor(draw.timesteps)
        alpha_bar = torch.tensor(schedule.alphas_cumprod.astype(dtype))[timesteps.long()].reshape(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        text = models.text_encoder(torch.tensor(batch_at(number, dtype, models.kind)["input_ids/text_encoder"]).long())[
            0
        ]
        errors = ((models.unet(noisy, timesteps, text).sample - noise) ** 2).mean(dim=(1, 2, 3))
        loss = (torch.tensor(WEIGHTS.astype(dtype)) * errors).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        first = leaves_of(parameters, lambda p: p.grad.clone()) if first is None else first
        # clip_grad_norm_ adds 1e-6 to the norm, which float64 would see
        norm = torch.sqrt(sum((p.grad**2).sum() for p in everything))
        for p in everything:
            p.grad /= torch.clamp(norm, min=1)
        optimizer.step()
        losses.append(loss.item())
    return losses, first, leaves_of(parameters)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dora", [None, "output"])
def test_gradients_and_five_steps_are_pefts(dora, double):
    pytest.importorskip("peft")
    pytest.importorskip("diffusers")
    dtype, tolerance = (np.float64, 1e-9) if double else (np.float32, 1e-5)
    with jax.enable_x64(double):
        models = torch_models.build("sd15", double=double)
        base = {name: torch_models.params_from_torch(getattr(models, name)) for name in RATES}
        parameters = with_peft(models, use_dora=dora is not None)
        start = leaves_of(parameters)
        losses, grads, draws, trained = ours(models, base, start, dtype, dora=dora)
        expected_losses, expected_grads, expected = theirs(models, parameters, dtype, draws)
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    largest = max(np.abs(leaf).max() for named in expected_grads.values() for leaf in named.values())
    for network, named in expected.items():
        for name, leaf in named.items():
            found, gradient = trained[f"{network}/{name}"], grads[f"{network}/{name}"]
            assert np.abs(gradient - expected_grads[network][name]).max() <= tolerance * largest, name
            assert np.abs(found - leaf).max() <= tolerance * max(1, np.abs(leaf).max()), name
            assert np.abs(leaf - start[network][name]).max() > 10 * tolerance, f"{name} never moved"
