# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The denoising objective: what a batch of cached examples costs a model.

z   = scaling_factor · (mean + exp(logvar / 2) n)        latents, drawn anew at every step
z_t = α z + σ ε,   t ~ U{0, ..., T - 1}                  each example its own n, ε and t, class examples too
L   = Σ_i w_i · mse(network(z_t, t, condition)_i, target_i) / n_instances
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.diffusion.loss import weighted_mse
from dreambooth_jax.diffusion.process import add_noise, sample_posterior, training_target
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.training.step import Batch, Metrics
from dreambooth_jax.trees import Tree


class Draws(NamedTuple):
    """What is random about one batch."""

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, "b"]


@dataclass(frozen=True, kw_only=True)
class DenoisingObjective:
    """An :class:`~dreambooth_jax.training.step.Objective`.

    Attributes:
        unet: the network.
        conditioner: runs the text encoders on batches that bring ``input_ids/…``; those that bring ``condition/…`` do
            not need it.
        schedule: noise levels and prediction type.
        scaling_factor: of the autoencoder's latents.
        n_instances: instance examples in the whole step, over all devices and micro-batches.
    """

    unet: nn.Module
    conditioner: Conditioner
    schedule: NoiseSchedule
    scaling_factor: float
    n_instances: int

    def draw(self, batch: Batch, *, root_key: Key[Array, ""], step: int | Int[Array, ""]) -> Draws:
        """Every example from its own keys, so that it does not matter on which device it lies."""

        def keys(name: str) -> Key[Array, "b"]:
            return rng.per_example(rng.stream(root_key, name, step), batch["index"])

        mean = batch["mean"]
        timesteps = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.schedule.num_train_timesteps))
        return Draws(
            latents=sample_posterior(keys("latents"), mean, batch["logvar"], self.scaling_factor),
            noise=jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], mean.dtype))(keys("noise")),
            timesteps=timesteps(keys("timesteps")).astype(jnp.int32),
        )

    def loss(self, params: Tree, batch: Batch, draws: Draws) -> tuple[Float[Array, ""], Metrics]:
        """The loss for given draws; ``prior_loss`` and ``instance_loss`` are its two parts."""
        condition = self.conditioner.of_batch(params, batch)
        alpha_bar = jnp.asarray(self.schedule.alphas_cumprod, draws.latents.dtype)[draws.timesteps]
        noisy = add_noise(draws.latents, draws.noise, alpha_bar)
        prediction: Any = self.unet.apply({"params": params["unet"]}, noisy, draws.timesteps, condition)
        target = training_target(self.schedule.prediction_type, draws.latents, draws.noise, alpha_bar)
        loss = weighted_mse(
            prediction, target, weight=batch["weight"], is_prior=batch["is_prior"], n_instances=self.n_instances
        )
        return loss.total, {"instance_loss": loss.instance, "prior_loss": loss.prior}

    def __call__(
        self, params: Tree, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """:meth:`loss` of this step's draws."""
        return self.loss(params, batch, self.draw(batch, root_key=root_key, step=step))
