# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Samplers: from noise to data with ``denoise(x, t)``, whatever stands behind it.

A sampler is a pair. ``table(schedule, steps)`` works out on the host what each step needs, padded so that every number
of steps has the same shapes; ``run`` is one loop over it. All numbers in the table are traced, so another choice of
steps, eta or seed compiles nothing anew.

DDIM (arXiv 2010.02502), with ᾱ = ᾱ_t, ᾱ' = ᾱ of the next timestep visited, and the paper's equations 12 and 16:

    σ  = η √((1 − ᾱ') / (1 − ᾱ)) √(1 − ᾱ / ᾱ')
    x' = √ᾱ' x̂_0 + √(1 − ᾱ' − σ²) ε̂ + σ z,    z ~ N(0, 1)
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dreambooth_jax import rng
from dreambooth_jax.diffusion.process import convert
from dreambooth_jax.diffusion.schedule import NoiseSchedule, PredictionType
from dreambooth_jax.errors import InputError

Denoise: TypeAlias = Callable[[Float[Array, "b *shape"], Int[Array, ""]], Float[Array, "b *shape"]]


class DDIMTable(NamedTuple):
    """One row per step, and padding up to the number of training timesteps."""

    steps: Int[np.ndarray | Array, ""]
    timestep: Int[np.ndarray | Array, "T"]
    alpha_bar: Float[np.ndarray | Array, "T"]
    next_alpha_bar: Float[np.ndarray | Array, "T"]
    clip: Float[np.ndarray | Array, ""]
    """Largest |x̂_0|; infinite where it is not clipped."""


def ddim_table(schedule: NoiseSchedule, steps: int) -> DDIMTable:
    """The table of a DDIM run.

    As in diffusers, a step from t leads to t − T // steps, also where the next timestep visited is another.

    Raises:
        InputError: if there are not so many timesteps, or a network that predicts ε had to start from pure noise.
    """
    timestep = schedule.timesteps(steps)
    alpha_bar = schedule.alphas_cumprod.astype(np.float64)
    if schedule.prediction_type == "epsilon" and alpha_bar[timestep[0]] == 0:
        raise InputError(
            f"scheduler_config.json: timestep_spacing = {schedule.timestep_spacing!r} starts at zero SNR, where "
            "prediction_type = 'epsilon' tells nothing; it needs 'leading', or a model trained for v_prediction"
        )
    after = timestep - schedule.num_train_timesteps // steps
    final = 1.0 if schedule.set_alpha_to_one else alpha_bar[0]

    def padded(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, schedule.num_train_timesteps - steps), mode="edge")

    return DDIMTable(
        steps=np.asarray(steps, np.int32),
        timestep=padded(timestep),
        alpha_bar=padded(alpha_bar[timestep]),
        next_alpha_bar=padded(np.where(after >= 0, alpha_bar[after], final)),
        clip=np.asarray(schedule.clip_sample_range if schedule.clip_sample else math.inf),
    )


def ddim_step(
    x: Float[Array, "b *shape"],
    prediction: Float[Array, "b *shape"],
    noise: Float[Array, "b *shape"],
    *,
    prediction_type: PredictionType,
    alpha_bar: Float[Array, ""],
    next_alpha_bar: Float[Array, ""],
    clip: Float[Array, ""],
    eta: Float[Array, ""],
) -> Float[Array, "b *shape"]:
    """x_t -> x_t', in the dtype of x. ``noise`` is z. As in diffusers, clipping x̂_0 does not change ε̂."""
    x0 = convert(prediction, x, alpha_bar, source=prediction_type, target="sample")
    epsilon = convert(prediction, x, alpha_bar, source=prediction_type, target="epsilon")
    variance = eta**2 * (1 - next_alpha_bar) / (1 - alpha_bar) * (1 - alpha_bar / next_alpha_bar)
    # not below zero by rounding, where eta = 1 and alpha_bar = 0 leave nothing
    rest = jnp.maximum(1 - next_alpha_bar - variance, 0)
    return jnp.sqrt(next_alpha_bar) * jnp.clip(x0, -clip, clip) + jnp.sqrt(rest) * epsilon + jnp.sqrt(variance) * noise


def ddim(
    denoise: Denoise,
    x: Float[Array, "b *shape"],
    table: DDIMTable,
    *,
    prediction_type: PredictionType,
    eta: Float[Array, ""],
    keys: Key[Array, "b"],
) -> Float[Array, "b *shape"]:
    """The whole run, from noise ``x`` to data.

    Args:
        denoise: prediction of ``prediction_type`` for noisy examples at one timestep.
        x: standard normal.
        table: of :func:`ddim_table`.
        prediction_type: what ``denoise`` predicts.
        eta: 0 is deterministic, 1 adds as much noise as ancestral sampling does.
        keys: one per example, for the noise of eta > 0: z of step i is normal under stream "ddim", i.
    """
    timestep = jnp.asarray(table.timestep)
    alpha_bar, next_alpha_bar, clip, eta = (
        jnp.asarray(value, x.dtype) for value in (table.alpha_bar, table.next_alpha_bar, table.clip, eta)
    )

    def body(i: Int[Array, ""], x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        noise = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "ddim", i), x.shape[1:], x.dtype))(keys)
        return ddim_step(
            x,
            denoise(x, timestep[i]),
            noise,
            prediction_type=prediction_type,
            alpha_bar=alpha_bar[i],
            next_alpha_bar=next_alpha_bar[i],
            clip=clip,
            eta=eta,
        )

    return jax.lax.fori_loop(0, table.steps, body, x)


class Sampler(NamedTuple):
    """What a name on the command line stands for."""

    table: Callable
    run: Callable


SAMPLERS: Mapping[str, Sampler] = {"ddim": Sampler(table=ddim_table, run=ddim)}
