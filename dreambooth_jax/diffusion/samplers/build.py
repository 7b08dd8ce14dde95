# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""From the name of a sampler and its settings to the table of a run."""

import math
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import numpy as np

from dreambooth_jax.diffusion.levels import CLEAN, Ladder, Level, Step, level_at
from dreambooth_jax.diffusion.samplers.model_choice import choice_of
from dreambooth_jax.diffusion.samplers.profiles import PROFILES, Profile
from dreambooth_jax.diffusion.samplers.registry import SAMPLERS, Sampler
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.schedules.spacings import Ends
from dreambooth_jax.diffusion.schedules.timesteps import to_clean
from dreambooth_jax.diffusion.table import SamplerTable, make_table
from dreambooth_jax.errors import InputError, nearest

SETTINGS = ("eta", "ancestral_eta", "gamma")
"""What users tell samplers; what else these can be told is said by profiles and the model's file."""

OWN = ("leading", "trailing", "linspace")
"""Spacings of timesteps that a model's file may name, each in the way of the sampler."""

MODEL = "model"
"""The sampler, or the schedule, of the model's file."""


def settings_of(sampler: str) -> tuple[str, ...]:
    """Names of what a sampler can be told by users, such as eta."""
    if sampler == MODEL:
        return SETTINGS
    rows = SAMPLERS[sampler].rows
    fixed = rows.keywords if isinstance(rows, partial) else {}
    return tuple(name for name in SETTINGS if name in signature(rows).parameters and name not in fixed)


def build_table(
    sampler: str,
    schedule: NoiseSchedule,
    steps: int,
    *,
    start: int = 0,
    spacing: str = MODEL,
    profile: str | None = None,
    **settings: float | int,
) -> SamplerTable:
    """The table of a run.

    Args:
        sampler: one of ``SAMPLERS``, or ``model``: what diffusers would do with the model's file, whatever its class.
        schedule: of the model.
        steps: from 1 to the number of timesteps that the model was trained with; some samplers take fewer.
        start: how many of the steps are left out at the noisy end; x must then be at the level of the first row.
        spacing: a formula of ``SPACINGS``, leading, trailing, linspace, or ``model``: what the file says, or in a
            profile that tool's default.
        profile: diffusers, a1111 or comfy, where these differ though all are right.
        settings: of the sampler, such as eta.

    Raises:
        InputError: if there is no such sampler, schedule, setting, step or number of steps, or if a network that
            predicts ε had to start from pure noise.
    """
    options: dict[str, Any] = {}
    final: str | None = None
    if sampler == MODEL:
        chosen = choice_of(schedule.config)
        sampler, options, final = chosen.sampler, dict(chosen.options), chosen.final
        schedule = replace(schedule, sampling=replace(schedule.sampling, **chosen.defaults))
        spacing = chosen.spacing if spacing == MODEL else spacing
        profile = profile or "diffusers"
        settings = {name: value for name, value in settings.items() if name in settings_of(sampler)}
    if spacing in OWN:  # of which the first noise is, too
        schedule = replace(schedule, sampling=replace(schedule.sampling, timestep_spacing=spacing))  # type: ignore[arg-type]
    kind, tool = _checked(sampler, profile, settings)
    pairs = _steps(kind, schedule, steps, sampler=sampler, spacing=spacing, tool=tool, final=final)
    if not 0 <= start < len(pairs):
        raise InputError(f"start = {start}: must be from 0 to {len(pairs) - 1}, less than the number of steps")
    rest = pairs[start:]
    _check_first(schedule, rest[0][0])
    given = {"ladder": Ladder.of(schedule, interpolation=tool.interpolation, whole=tool.whole), "count": len(pairs)}
    wanted = {name: value for name, value in given.items() if name in signature(kind.rows).parameters}
    defaults = schedule.sampling
    table = make_table(
        kind.rows(rest, **wanted, **{**tool.options.get(sampler, {}), **options, **settings}),
        final=rest[-1][1],
        prediction_type=schedule.prediction_type,
        clip=defaults.clip_sample_range if defaults.clip_sample else math.inf,
        size=2 * schedule.num_train_timesteps + 1,  # for two calls of the network in each step
    )
    return table._replace(noise=np.asarray(_noise(kind, tool, schedule, sampler=sampler, first=rest[0][0])))


def _checked(sampler: str, profile: str | None, settings: dict[str, Any]) -> tuple[Sampler, Profile]:
    if sampler not in SAMPLERS:
        raise InputError(f"sampler = {sampler!r}: choose one of {', '.join(SAMPLERS)}{nearest(sampler, SAMPLERS)}")
    if profile not in PROFILES:
        raise InputError(f"profile = {profile!r}: choose one of {', '.join(name for name in PROFILES if name)}")
    for name, value in settings.items():
        if name not in settings_of(sampler):
            raise InputError(f"{name} = {value!r}: the sampler {sampler!r} has no such setting")
    return SAMPLERS[sampler], PROFILES[profile]


def _steps(
    kind: Sampler, schedule: NoiseSchedule, steps: int, *, sampler: str, spacing: str, tool: Profile, final: str | None
) -> list[Step]:
    """Pairs of levels, from noise on."""
    if spacing == MODEL and sampler in tool.steps_of:
        return tool.steps_of[sampler](schedule, steps)
    if spacing == MODEL and not tool.own_spacing:
        spacing = tool.spacing_of.get(sampler, tool.other_spacing)
    final = final or (kind.habits.final if tool.habits else "zero")
    if spacing == MODEL or spacing in OWN:
        pairs = kind.steps(schedule, steps)
        return [*pairs[:-1], (pairs[-1][0], level_at(schedule, 0))] if final == "sigma_min" else pairs
    if spacing not in tool.spacings:
        names = (MODEL, *OWN, *tool.spacings)
        raise InputError(f"schedule = {spacing!r}: choose one of {', '.join(names)}{nearest(spacing, names)}")
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise InputError(
            f"steps = {steps}: take 1 to {schedule.num_train_timesteps}, as many as the model was trained with"
        )
    levels = _levels(kind, schedule, steps, spacing=spacing, tool=tool, spared=sampler in tool.spared)
    smallest = level_at(schedule, 0)
    # a step that led from the smallest k to itself would leave its noise in the result
    return to_clean(levels, smallest if final == "sigma_min" and levels[-1].k > smallest.k * (1 + 1e-6) else CLEAN)


def _levels(
    kind: Sampler, schedule: NoiseSchedule, steps: int, *, spacing: str, tool: Profile, spared: bool
) -> list[Level]:
    """Those of a formula."""
    ladder = Ladder.of(schedule, interpolation=tool.interpolation, whole=tool.whole)
    ends = Ends(largest=float(ladder.k[-1]), smallest=float(ladder.k[0]))
    if tool.habits and kind.habits.chosen_ends:
        own = kind.steps(schedule, steps)
        ends = Ends(*(min(level.k, ends.largest) for level in (own[0][0], own[-1][0])))
    levels = tool.spacings[spacing].levels(ladder, steps + spared, ends)
    if spared and len(levels) > 1:
        levels = levels[:-1]
    told = kind.habits.rounding.get(spacing) if tool.habits else None
    return [level._replace(t=told(level.t)) for level in levels] if told else levels


def _check_first(schedule: NoiseSchedule, first: Level) -> None:
    """Raise InputError if the network predicts ε and would be asked where there is nothing but noise."""
    if schedule.prediction_type == "epsilon" and first.alpha == 0:
        raise InputError(
            f"scheduler_config.json: timestep_spacing = {schedule.sampling.timestep_spacing!r} starts at zero SNR, "
            "where prediction_type = 'epsilon' tells nothing; it needs 'leading', or a model trained for v_prediction"
        )


def _noise(kind: Sampler, tool: Profile, schedule: NoiseSchedule, *, sampler: str, first: Level) -> float:
    """Standard deviation of x at the beginning of a run from noise."""
    if tool.habits:
        plain = not (kind.habits.scaled_noise and schedule.sampling.timestep_spacing in ("trailing", "linspace"))
    else:
        plain = tool.plain_noise(sampler, first, level_at(schedule, schedule.num_train_timesteps - 1))
    return 1.0 if plain else first.sigma
