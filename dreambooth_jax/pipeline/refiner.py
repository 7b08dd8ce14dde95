# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A second model that draws the last steps of a run, as XL's refiner does (arXiv 2307.01952, § 2.5).

Each of both was trained for its own noise levels. The first one stops where a share of the timesteps is left behind and
hands over its latents with the noise that they have; the second goes on along the same levels. They are legs of one
run over one table:

    rows     0 … n − 1   first model       n … end   second model

so that noise, the course of prompts and who looks on know of one run. What a multistep method remembers is left behind,
as in diffusers, where each pipeline has a scheduler of its own, and in ComfyUI; A1111 and its profile keep it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dreambooth_jax.diffusion.schedules.strength import Part
from dreambooth_jax.diffusion.table import Rows as TableRows
from dreambooth_jax.diffusion.table import SamplerTable
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.controls import Program
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.program import static_of, table_of
from dreambooth_jax.pipeline.request import Request
from dreambooth_jax.pipeline.rows import said_of
from dreambooth_jax.pipeline.run import Leg
from dreambooth_jax.pipeline.texts import read_texts
from dreambooth_jax.size import Size


class Relay(NamedTuple):
    """A run of one model or of two, one after the other.

    Attributes:
        table: its rows.
        row: the first that is not the first model's.
        afresh: whether the second one begins with x alone.
    """

    table: SamplerTable
    row: int
    afresh: bool = True


def relay_of(first: Model, request: Request, table: SamplerTable, part: Part) -> Relay:
    """Who draws which rows.

    Args:
        first: the model that begins.
        request: with the second one, if there is one.
        table: of the whole run, for the first one.
        part: what of all steps that is.

    Raises:
        InputError: if the models do not fit each other, or no step is left for the second one.
    """
    second, settings = request.refiner, request.sampling
    if second is None:
        return Relay(table, int(table.length))
    for misfit in misfits(first, second):
        raise InputError(
            f"refiner = {second.components.folder} does not go on where {first.components.folder} ends: {misfit}"
        )
    start, count = settings.refiner_start, first.schedule.num_train_timesteps
    row, step = switch(table, round(count - start * count))
    if row == table.length:
        raise InputError(
            f"refiner_start = {start:g}: leaves the refiner none of {step} steps; take less, or more steps"
        )
    schedule = replace(first.schedule, prediction_type=second.schedule.prediction_type)
    if settings.profile == "a1111":
        return Relay(_joined(table, row, table_of(schedule, settings, part), row), row, afresh=False)
    rest = table_of(schedule, settings, Part(part.steps, part.start + step))
    rest = rest._replace(rows=rest.rows._replace(step=rest.rows.step + step))
    return Relay(_joined(table, row, rest, 0), row)


def misfits(first: Model, second: Model) -> Iterator[str]:
    """A line for each way in which the second model cannot go on with what the first one made."""
    for model in (first, second):
        if model.unet.config.in_channels != first.latent_channels:
            what = f"the unet of {model.components.folder} takes {model.unet.config.in_channels} channels"
            yield f"{what}, latents have {first.latent_channels}"
    factors = tuple(model.vae.config.scaling_factor for model in (first, second))
    if factors[0] != factors[1]:
        yield "their latents are scaled by {:g} and {:g}".format(*factors)
    if not np.array_equal(first.schedule.alphas_cumprod, second.schedule.alphas_cumprod):
        yield "they were trained with other noise levels"


def switch(table: SamplerTable, cutoff: int) -> tuple[int, int]:
    """(row, step) of the first step whose timestep is below; those behind the last where there is none."""
    length = int(table.length)
    begins = np.flatnonzero(np.diff(np.asarray(table.rows.step)[:length], prepend=-1))
    step = int(np.count_nonzero(np.asarray(table.rows.t)[begins] >= cutoff))
    return int([*begins, length][step]), step


def _joined(table: SamplerTable, row: int, rest: SamplerTable, start: int) -> SamplerTable:
    """A table up to a row, and another one from a row on, as long as they were."""
    columns = (np.concatenate([one[:row], other[start:]])[: len(one)] for one, other in zip(table.rows, rest.rows))
    length = np.asarray(row + int(rest.length) - start, np.int32)
    return table._replace(length=length, rows=TableRows(*columns))


def handed_over(second: Model, request: Request, program: Program, relay: Relay, *, passed: int | None) -> Leg:
    """What the second model does of a run.

    Args:
        second: the model.
        request: what is asked for.
        program: of the first one, without its controls.
        relay: who draws which rows.
        passed: as in :func:`~dreambooth_jax.pipeline.texts.read_texts`.
    """
    (networks, _), shared, rows, params = program
    settings, table = request.sampling, relay.table
    own, with_guidance = static_of(second, settings)
    texts = read_texts(
        request, second.tokenizers, steps=np.asarray(table.rows.step), with_guidance=with_guidance, passed=passed
    )
    sides = Size(*rows.latents.shape[1:3])
    names = ("sizes", "silent", "token_weights", "negative_token_weights", "choice")
    told: dict[str, Any] = {**dict.fromkeys(names), **texts.fields}
    told |= said_of(second, settings, texts.negatives, sides)
    return Leg(
        (own._replace(vae=networks.vae), with_guidance),
        shared,
        rows._replace(**told),
        {**second.params, "vae": params["vae"]},
        lengths=texts.lengths,
        until=int(table.length),
        afresh=relay.afresh,
    )
