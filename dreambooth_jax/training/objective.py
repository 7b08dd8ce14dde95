# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The denoising objective: what a batch of cached examples costs a model.

z   = scaling_factor · (mean + exp(logvar / 2) n)        latents, drawn anew at every step
z_t = α z + σ ε,   t ~ U{0, ..., T - 1}                  each example its own n, ε and t, class examples too
L   = Σ_i w_i · mse(network(z_t, t, condition)_i, target_i) / n_instances

Other laws of t and ε are a :class:`Noising`, other weights and costs of an error a :class:`Scoring`; they hold for both
terms. Where the parameters have a ``teacher``, the target of class examples is its prediction, at the same noise and
with the texts (``teacher/condition/...``) that they bring.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.adapters.teacher import TEACHER
from dreambooth_jax.diffusion.loss import example_errors, loss_of_concepts, weighted_loss
from dreambooth_jax.diffusion.penalties import Penalty
from dreambooth_jax.diffusion.process import add_noise, sample_posterior, training_target
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.timesteps import draw_timesteps
from dreambooth_jax.models.beside import apply
from dreambooth_jax.models.condition import SIZES, Condition, Conditioner
from dreambooth_jax.training.step import Batch, Metrics
from dreambooth_jax.trees import Tree

_TAUGHT = f"{TEACHER}/"


class Draws(NamedTuple):
    """What is random about one batch."""

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, "b"]
    added: Float[Array, "b h w c"] | None = None
    """What is added to the latents, where it is not the noise of the target."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Noising:
    """How noisy latents are made.

    Attributes:
        cumulative: sums of the probabilities of timesteps (``diffusion/timesteps.py``); None draws all alike.
        offset: standard deviation of a number that is added to all noise of a channel, and so to the target.
        perturbation: standard deviation of noise that the network's input has on top, and its target has not
            (arXiv 2301.11706).
    """

    cumulative: Float[np.ndarray, "T"] | None = None
    offset: float = 0.0
    perturbation: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """What errors cost.

    Attributes:
        weights: of each timestep; None is 1.
        constant: weight of all timesteps.
        penalty: of an error, instead of its square.
        deltas: of the penalty, at each timestep.
    """

    weights: Float[np.ndarray, "T"] | None = None
    constant: float = 1.0
    penalty: Penalty | None = None
    deltas: Float[np.ndarray, "T"] | None = None

    def errors(
        self,
        prediction: Float[Array, "b *shape"],
        target: Float[Array, "b *shape"],
        timesteps: Int[Array, "b"],
        position_weight: Float[Array, "b ..."] | None = None,
    ) -> Float[Array, "b"]:
        """Of each example, without the weights of examples."""
        penalty = self.penalty
        if penalty is None or self.deltas is None:
            return example_errors(prediction, target, position_weight=position_weight)
        delta = jnp.asarray(self.deltas, jnp.promote_types(target.dtype, jnp.float32))[timesteps]
        return example_errors(
            prediction, target, penalty=lambda error: penalty(error, delta), position_weight=position_weight
        )

    def weight(self, weight: Float[Array, "b"], timesteps: Int[Array, "b"]) -> Float[Array, "b"]:
        """Weights of examples at their timesteps."""
        if self.constant != 1.0:
            weight = weight * self.constant
        return weight if self.weights is None else weight * jnp.asarray(self.weights, weight.dtype)[timesteps]


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
        noising: how noisy latents are made.
        scoring: what errors cost.
        concepts: names of several subjects, in the order of their numbers in batches: each one's part of
            ``instance_loss`` is logged.
        halves: are the second half of all rows, and they alone, class examples? It spares a teacher the others.
    """

    unet: nn.Module
    conditioner: Conditioner
    schedule: NoiseSchedule
    scaling_factor: float
    n_instances: int
    noising: Noising = Noising()
    scoring: Scoring = Scoring()
    concepts: tuple[str, ...] = ()
    halves: bool = False

    def draw(self, batch: Batch, *, root_key: Key[Array, ""], step: int | Int[Array, ""]) -> Draws:
        """Every example from its own keys, so that it does not matter on which device it lies."""

        def keys(name: str) -> Key[Array, "b"]:
            return rng.per_example(rng.stream(root_key, name, step), batch["index"])

        def normal(name: str, *shape: int) -> Float[Array, "b h w c"]:
            return jax.vmap(lambda key: jax.random.normal(key, shape, mean.dtype))(keys(name))

        mean, noising = batch["mean"], self.noising
        noise = normal("noise", *mean.shape[1:])
        if noising.offset:
            noise = noise + jnp.broadcast_to(noising.offset * normal("noise_offset", 1, 1, mean.shape[-1]), noise.shape)
        added = None
        if noising.perturbation:
            added = noise + noising.perturbation * normal("input_perturbation", *mean.shape[1:])
        return Draws(
            latents=sample_posterior(keys("latents"), mean, batch["logvar"], self.scaling_factor),
            noise=noise,
            timesteps=self._timesteps(keys("timesteps")),
            added=added,
        )

    def _timesteps(self, keys: Key[Array, "b"]) -> Int[Array, "b"]:
        if self.noising.cumulative is not None:
            return draw_timesteps(keys, jnp.asarray(self.noising.cumulative))
        draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.schedule.num_train_timesteps))
        return draw(keys).astype(jnp.int32)

    def loss(self, params: Tree, batch: Batch, draws: Draws) -> tuple[Float[Array, ""], Metrics]:
        """The loss for given draws; ``prior_loss`` and ``instance_loss`` are its two parts."""
        return self.reduced(*self.row_errors(params, batch, draws), batch)

    def row_errors(
        self, params: Tree, batch: Batch, draws: Draws, *, members: int = 1
    ) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
        """(error, weight) of each row. The networks run here, and nowhere else.

        Args:
            params: of the networks.
            batch: rows of one run, or of several members, one after the other and as many of each.
            draws: of all rows.
            members: how many there are.
        """
        condition = self.conditioner.of_batch(params, batch)
        alpha_bar = jnp.asarray(self.schedule.alphas_cumprod, draws.latents.dtype)[draws.timesteps]
        noisy = add_noise(draws.latents, draws.noise if draws.added is None else draws.added, alpha_bar)
        prediction: Any = apply(self.unet, params["unet"], noisy, draws.timesteps, condition)
        target = training_target(self.schedule.prediction_type, draws.latents, draws.noise, alpha_bar)
        if TEACHER in params:
            target = self._taught(params[TEACHER], batch, noisy, draws.timesteps, target, members)
        errors = self.scoring.errors(prediction, target, draws.timesteps, batch.get("position_weight"))
        return errors, self.scoring.weight(batch["weight"], draws.timesteps)

    def reduced(
        self, errors: Float[Array, "b"], weight: Float[Array, "b"], batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss and its parts, from what rows of one run cost."""
        is_prior = batch["is_prior"]
        loss = weighted_loss(errors, weight=weight, is_prior=is_prior, n_instances=self.n_instances)
        metrics = {"instance_loss": loss.instance, "prior_loss": loss.prior}
        if "concept" in batch:
            terms = weight * errors / self.n_instances
            parts = loss_of_concepts(terms, batch["concept"], is_prior, self.concepts)
            metrics |= {f"instance_loss/{name}": part for name, part in parts.items()}
        return loss.total, metrics

    def _taught(
        self,
        teacher: Tree,
        batch: Batch,
        noisy: Float[Array, "b h w c"],
        timesteps: Int[Array, "b"],
        target: Float[Array, "b h w c"],
        members: int,
    ) -> Float[Array, "b h w c"]:
        """Targets of which those of class examples are what the untouched network predicts."""
        taught = partial(_second_halves, members=members) if self.halves else _as_it_is
        texts = {name.removeprefix(_TAUGHT): taught(rows) for name, rows in batch.items() if name.startswith(_TAUGHT)}
        texts |= {SIZES: taught(batch[SIZES])} if SIZES in batch else {}
        said: Any = self.unet.apply({"params": teacher}, taught(noisy), taught(timesteps), Condition.of_batch(texts))
        said = jax.lax.stop_gradient(said).astype(target.dtype)
        is_prior = jnp.broadcast_to(taught(batch["is_prior"])[:, None, None, None], said.shape)
        new = jnp.where(is_prior, said, taught(target))
        return _with_second_halves(target, new, members=members) if self.halves else new

    def __call__(
        self, params: Tree, batch: Batch, *, root_key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """:meth:`loss` of this step's draws."""
        return self.loss(params, batch, self.draw(batch, root_key=root_key, step=step))


def _as_it_is(rows: Array) -> Array:
    return rows


def _second_halves(rows: Array, *, members: int) -> Array:
    """Of each member's rows those behind the middle."""
    apart = rows.reshape(members, -1, *rows.shape[1:])
    return apart[:, apart.shape[1] // 2 :].reshape(-1, *rows.shape[1:])


def _with_second_halves(rows: Array, halves: Array, *, members: int) -> Array:
    """The same with others in their place."""
    apart, others = (one.reshape(members, -1, *rows.shape[1:]) for one in (rows, halves))
    return jnp.concatenate([apart[:, : -others.shape[1]], others], axis=1).reshape(rows.shape)
