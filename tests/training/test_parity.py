# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Five training steps beside PyTorch: same noise, timesteps and data; AdamW, clip, prior term, text encoders too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import full
from dreambooth_jax.adapters.sparing import sparing
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD, SDXL
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from tests import torch_models

pytestmark = pytest.mark.parity

STEPS = 5
RATES = {"unet": 1e-4, "text_encoder": 3e-5, "text_encoder_2": 4e-5}
DECAY = 1e-2
FAMILY = {"sd15": SD, "sd21": SD, "sdxl": SDXL}
WEIGHTS = np.asarray([1.0, 1.0, 0.7, 0.7])
ROOT_SEED = 11


def networks_of(kind):
    return ("unet", *FAMILY[kind].text_encoders)


def batch_at(step, dtype, kind):
    r = np.random.default_rng(step)
    more = {}
    if FAMILY[kind] is SDXL:
        ids = r.integers(0, 552, size=(4, 77)).astype(np.int32)
        ids[np.arange(4), [9, 30, 76, 4]] = 552
        more = {"input_ids/text_encoder_2": ids, "sizes": r.integers(0, 1000, size=(4, 6)).astype(dtype)}
    return {
        **more,
        "mean": r.normal(size=(4, 8, 8, 4)).astype(dtype),
        "logvar": r.normal(size=(4, 8, 8, 4), loc=-3).astype(dtype),
        "input_ids/text_encoder": r.integers(0, 553, size=(4, 77)).astype(np.int32),
        "weight": WEIGHTS.astype(dtype),
        "is_prior": np.asarray([False, False, True, True]),
        "index": np.arange(4, dtype=np.int32),
    }


def objective_for(models, dtype):
    family, modules = FAMILY[models.kind], {}
    for name in networks_of(models.kind):
        kind = family.components[name]
        config = kind.config_cls.from_json(torch_models.config_json(getattr(models, name)))
        modules[name] = kind.build(config, dtype=dtype)
    return DenoisingObjective(
        unet=modules["unet"],
        conditioner=Conditioner(tuple((name, modules[name]) for name in family.text_encoders), family.condition),
        schedule=NoiseSchedule.from_config(torch_models.scheduler_config(models.kind)),
        scaling_factor=0.18215,
        n_instances=2,
    )


def ours(models, dtype):
    """(losses, draws of each step, parameters after the last)."""
    objective, names = objective_for(models, dtype), networks_of(models.kind)
    adapter = sparing(full(*(f"{name}/.*" for name in names)), objective.conditioner.unread)
    params = {name: torch_models.params_from_torch(getattr(models, name)) for name in names}
    params = jax.tree.map(lambda leaf: jnp.array(leaf, dtype), params)  # a copy: PyTorch trains its own in place
    frozen, trainable = adapter.init(rng.root_key(0), params)
    optimizers = {g: adamw(optax.constant_schedule(RATES[g]), group=g, weight_decay=DECAY) for g in names}
    step = jax.jit(
        TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=names),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = init_state(trainable, optimizers, with_ema=False)
    root, losses, draws = rng.root_key(ROOT_SEED), [], []
    for number in range(STEPS):
        batch = {name: jnp.asarray(value) for name, value in batch_at(number, dtype, models.kind).items()}
        draws.append(jax.tree.map(np.asarray, objective.draw(batch, root_key=root, step=number)))
        state, metrics = step(state, frozen, batch, root)
        losses.append(float(metrics["loss"]))
    assert all(np.array_equal(leaf, trees.flatten(params)[name]) for name, leaf in trees.flatten(frozen).items())
    return losses, draws, trees.combine(state.trainable, frozen)


def theirs(models, dtype, draws):
    """The same with torch.optim.AdamW; (losses, parameters)."""
    import torch

    schedule = NoiseSchedule.from_config(torch_models.scheduler_config(models.kind))
    networks = {name: getattr(models, name) for name in networks_of(models.kind)}
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": list(n.parameters()), "lr": RATES[name]} for name, n in networks.items()], weight_decay=DECAY
    )
    losses = []
    for number, draw in enumerate(draws):
        latents, noise = (torch.tensor(np.moveaxis(x, -1, 1)) for x in (draw.latents, draw.noise))
        timesteps = torch.tensor(draw.timesteps)
        alpha_bar = torch.tensor(schedule.alphas_cumprod.astype(dtype))[timesteps.long()].reshape(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        text, added = told(models, batch_at(number, dtype, models.kind))
        prediction = models.unet(noisy, timesteps, text, added_cond_kwargs=added).sample
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        target = velocity if models.kind == "sd21" else noise
        errors = ((prediction - target) ** 2).mean(dim=(1, 2, 3))
        loss = (torch.tensor(WEIGHTS.astype(dtype)) * errors).sum() / 2
        optimizer.zero_grad()
        loss.backward()
        # clip_grad_norm_ adds 1e-6 to the norm, which float64 would see
        read = [p for p in parameters if p.grad is not None]
        norm = torch.sqrt(sum((p.grad**2).sum() for p in read))
        assert norm > 1, "the clip must have something to do"
        for p in read:
            p.grad /= norm
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: torch_models.params_from_torch(network) for name, network in networks.items()}


def told(models, batch):
    """(text states, what else the UNet is told), as diffusers' training scripts have them."""
    import torch

    ids = {name: torch.tensor(batch[f"input_ids/{name}"]).long() for name in FAMILY[models.kind].text_encoders}
    if len(ids) == 1:
        return models.text_encoder(ids["text_encoder"])[0], None
    first, second = (getattr(models, name)(rows, output_hidden_states=True) for name, rows in ids.items())
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return states, {"text_embeds": second[0], "time_ids": torch.tensor(batch["sizes"])}


def unread(name, kind):
    """A leaf behind the layer that XL reads: it has no gradient, so that PyTorch leaves it alone."""
    behind = ("encoder/layers_1", "final_layer_norm")
    return kind == "sdxl" and name.startswith(tuple(f"text_encoder/text_model/{part}" for part in behind))


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    ("kind", "double"),
    [
        pytest.param("sd15", False, **SLOW),
        pytest.param("sd15", True, **SLOW),
        ("sd21", True),
        pytest.param("sdxl", True, **SLOW),
    ],
)
def test_five_steps_are_pytorchs(kind, double):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    dtype, tolerance = (np.float64, 1e-9) if double else (np.float32, 1e-5)
    with jax.enable_x64(double):
        models = torch_models.build(kind, double=double)
        start = {name: torch_models.params_from_torch(getattr(models, name)) for name in networks_of(kind)}
        start = {name: np.array(leaf) for name, leaf in trees.flatten(start).items()}
        losses, draws, params = ours(models, dtype)
        expected_losses, expected = theirs(models, dtype, draws)
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    found, expected = trees.flatten(params), trees.flatten(expected)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        if unread(name, kind):
            np.testing.assert_array_equal(leaf, start[name])
            np.testing.assert_array_equal(found[name], start[name])
            continue
        assert np.abs(np.asarray(found[name]) - leaf).max() <= tolerance * max(1, np.abs(leaf).max()), name
        assert np.abs(leaf - start[name]).max() > 10 * tolerance or name.endswith("k_proj/bias"), f"{name} never moved"
