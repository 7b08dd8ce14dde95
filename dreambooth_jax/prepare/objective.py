# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a run's settings say about its objective, as tables of the model's timesteps."""

from typing import NamedTuple

import numpy as np

from dreambooth_jax.config import Config, ObjectiveConfig
from dreambooth_jax.diffusion.loss_weights import loss_weights, signal_to_noise
from dreambooth_jax.diffusion.penalties import PENALTIES, deltas
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.timesteps import Probabilities, cumulative, importance, probabilities
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.training.objective import DenoisingObjective, Noising, Scoring


class ObjectiveValues(NamedTuple):
    """Of :class:`~dreambooth_jax.training.objective.DenoisingObjective`.

    Attributes:
        noising: how noisy latents are made.
        scoring: what errors cost.
        timesteps: the probability of each.
    """

    noising: Noising
    scoring: Scoring
    timesteps: Probabilities


def objective_values(objective: ObjectiveConfig, schedule: NoiseSchedule) -> ObjectiveValues:
    """The tables that the settings ask for.

    Args:
        objective: the settings.
        schedule: that is trained with.

    Raises:
        InputError: if the settings do not fit the model's timesteps, or what it predicts.
    """
    count, first, stop = schedule.num_train_timesteps, objective.min_timestep, objective.max_timestep
    if max(first + 1, stop or 0) > count:
        name = "max_timestep" if (stop or 0) > count else "min_timestep"
        raise InputError(f"objective.{name} is {getattr(objective, name)}, but the model has {count} timesteps")
    chosen = probabilities(
        objective.timesteps,
        count,
        first=first,
        stop=stop,
        bias=objective.timestep_bias,
        scale=objective.timestep_scale,
    )
    is_plain = objective.timesteps == "uniform" and not first and stop in (None, count)
    snr, weights, constant = signal_to_noise(schedule.alphas_cumprod), None, 1.0
    if objective.weighting != "none":
        weights = loss_weights(
            objective.weighting,
            snr,
            schedule.prediction_type,
            trained=chosen > 0,
            snr_gamma=objective.snr_gamma,
            p2_gamma=objective.p2_gamma,
            p2_k=objective.p2_k,
        )
        if not np.float32(chosen @ weights):
            raise InputError(
                f"objective.weighting {objective.weighting} is 0 at every timestep that is trained, so nothing would "
                "be learned: train others (min_timestep, max_timestep, timesteps), or weigh them otherwise"
            )
        if objective.importance:
            chosen, constant = importance(chosen, weights)
            is_plain, weights = False, None
    is_huber = objective.loss in PENALTIES
    return ObjectiveValues(
        noising=Noising(
            cumulative=None if is_plain else cumulative(chosen),
            offset=objective.noise_offset,
            perturbation=objective.input_perturbation,
        ),
        scoring=Scoring(
            weights=weights,
            constant=constant,
            penalty=PENALTIES[objective.loss] if is_huber else None,
            deltas=deltas(objective.huber_schedule, objective.huber_delta, snr) if is_huber else None,
        ),
        timesteps=chosen,
    )


def objective_of(
    config: Config, pipe: Pipeline, *, n_instances: int, concepts: tuple[str, ...], halves: bool
) -> DenoisingObjective:
    """What a run's steps minimise.

    Args:
        config: of the run.
        pipe: the model, with the noise that is trained with.
        n_instances, concepts, halves: as :class:`DenoisingObjective` has them.
    """
    values, remat = objective_values(config.objective, pipe.schedule), config.train.remat
    return DenoisingObjective(
        unet=pipe.unet.clone(remat=remat, scan=config.train.scan),
        conditioner=pipe.conditioner.clone(remat=remat),
        schedule=pipe.schedule,
        scaling_factor=pipe.vae.config.scaling_factor,
        n_instances=n_instances,
        noising=values.noising,
        scoring=values.scoring,
        concepts=concepts,
        halves=halves,
    )
