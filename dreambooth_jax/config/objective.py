# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of the objective: how noise meets data, and what an error costs. The defaults are the plain ε or v loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dreambooth_jax.config.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Settings):
    """What the denoiser is trained for, beside the prior term."""

    weighting: Literal["none", "min_snr", "debiased", "p2"] = "none"
    """What timesteps count, by their signal-to-noise ratio, of both terms: min_snr evens them out."""
    snr_gamma: float = setting(5.0, above=0)
    """γ of min_snr: the largest ratio that counts; large ones are plain."""
    p2_gamma: float = setting(1.0, at_least=0, at_most=100)
    """γ of p2; 0 is plain for ε."""
    p2_k: float = setting(1.0, above=0)
    """k of p2."""
    importance: bool = False
    """Draw timesteps in proportion to what they count, instead of weighting them: the same on average, less noise."""
    loss: Literal["mse", "huber", "smooth_l1"] = "mse"
    """What an error costs: its square, or less than that where it is large, which forgives faulty pictures."""
    huber_delta: float = setting(0.1, above=0, at_most=1)
    """δ of huber and smooth_l1: where large errors begin."""
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    """Whether δ is the same at all timesteps, or falls from 1 without noise to huber_delta."""
    timesteps: Literal["uniform", "logit_normal", "sigmoid"] = "uniform"
    """Which timesteps are drawn: all alike, those in the middle (logit_normal), or later ones more often (sigmoid)."""
    timestep_bias: float = setting(0.0, at_least=-100, at_most=100)
    """Of logit_normal: mean of logit(t / T). Of sigmoid: where it rises, from the middle. Above 0 is more noise."""
    timestep_scale: float = setting(1.0, at_least=-1000, at_most=1000)
    """Of logit_normal: standard deviation. Of sigmoid: how steep it is."""
    min_timestep: int = setting(0, at_least=0)
    """The first timestep that is trained; 0 has least noise."""
    max_timestep: int | None = setting(None, at_least=1)
    """The first that is no longer trained; by default none, 1000 for usual models."""
    noise_offset: float = setting(0.0, at_least=0, at_most=10)
    """Standard deviation of what a channel's noise is shifted by, for very dark and bright pictures; 0.05 is usual."""
    input_perturbation: float = setting(0.0, at_least=0, at_most=10)
    """Standard deviation of more noise for the network's input, not in its target; 0.1 is usual (arXiv 2301.11706)."""
    zero_terminal_snr: bool = False
    """Rescale noise so that the last timestep is nothing but noise; not for models that predict ε. Kept in exports."""


LEAST_DEVIATION = 1e-3
"""Of logit_normal: less than from one of a thousand timesteps to the next."""
OF_WEIGHTING = {"snr_gamma": ("min_snr",), "p2_gamma": ("p2",), "p2_k": ("p2",)}
OF_LOSS = {"huber_delta": ("huber", "smooth_l1"), "huber_schedule": ("huber", "smooth_l1")}
OF_TIMESTEPS = {name: ("logit_normal", "sigmoid") for name in ("timestep_bias", "timestep_scale")}


def objective_problems(objective: ObjectiveConfig) -> Iterator[str]:
    """What cannot work, one line each."""
    plain = ObjectiveConfig()
    for choice, owners in (("weighting", OF_WEIGHTING), ("loss", OF_LOSS), ("timesteps", OF_TIMESTEPS)):
        chosen = getattr(objective, choice)
        for name, kinds in owners.items():
            value = getattr(objective, name)
            if value != getattr(plain, name) and chosen not in kinds:
                yield f"objective.{name} is {value}, but objective.{choice} {chosen} has no use for it: leave it out"
    if objective.importance and objective.weighting == "none":
        yield "objective.importance is True, but objective.weighting none has no weights: choose a weighting"
    if objective.max_timestep is not None and objective.min_timestep >= objective.max_timestep:
        yield (
            f"objective.min_timestep {objective.min_timestep} is not before objective.max_timestep "
            f"{objective.max_timestep}"
        )
    if objective.timesteps == "logit_normal" and objective.timestep_scale < LEAST_DEVIATION:
        yield (
            f"objective.timestep_scale is {objective.timestep_scale}, but must be at least {LEAST_DEVIATION} for "
            "logit_normal"
        )
