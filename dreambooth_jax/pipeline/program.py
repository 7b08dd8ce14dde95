# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of a call -> what is compiled in, and what is given to the program for all pictures."""

import numpy as np

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.diffusion.samplers import build_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.diffusion.schedules.strength import Part, part_of
from dreambooth_jax.diffusion.table import SamplerTable
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.pipeline.arguments import check
from dreambooth_jax.pipeline.generate import Networks, Shared
from dreambooth_jax.pipeline.model import Model

Static = tuple[Networks, bool]
"""What is compiled in: networks, and whether there is guidance."""


def program_of(pipe: Model, sampling: SamplingConfig, part: Part | None = None) -> tuple[Static, Shared]:
    """What is compiled anew where it differs, and what is given to it for all pictures.

    Args:
        pipe: the model.
        sampling: the settings.
        part: which steps are run; by default all of ``sampling.steps``.
    """
    table = table_of(pipe.schedule, sampling, part or Part(sampling.steps, 0))
    return static_of(pipe, sampling), Shared(
        table,
        guidance_scale=np.asarray(sampling.guidance_scale),
        guidance_rescale=np.asarray(sampling.guidance_rescale),
        first=np.zeros((), np.int32),
        last=table.length,
        noise_counts=np.asarray(sampling.noise != "jax"),
        restore_mean=np.asarray(sampling.emphasis == "original"),
    )


def static_of(pipe: Model, sampling: SamplingConfig) -> Static:
    """What is compiled anew where it differs."""
    with_guidance = sampling.guidance_scale > 1 and not pipe.unet.config.takes_guidance
    return Networks(pipe.unet, pipe.vae, _conditioner(pipe, sampling.clip_skip)), bool(with_guidance)


def table_of(schedule: NoiseSchedule, sampling: SamplingConfig, part: Part) -> SamplerTable:
    """The sampler's rows for some of the steps."""
    return build_table(
        sampling.sampler,
        schedule,
        part.steps,
        start=part.start,
        spacing=sampling.schedule,
        profile=sampling.profile,
        **sampling.of_sampler,
    )


def _conditioner(pipe: Model, clip_skip: int) -> Conditioner:
    """The pipeline's, reading the layer of its text encoders that is asked for: of those behind it that its family was
    not trained with, none."""
    family = pipe.components.family
    encoders = [pipe.components.modules[name] for name in family.text_encoders]
    most = min(encoder.config.num_hidden_layers for encoder in encoders) + family.clip_skip - 1
    check("clip_skip", clip_skip, clip_skip <= most, f"must be at most {most}, the text encoder's layers")
    more = max(clip_skip - family.clip_skip, 0)
    return pipe.conditioner.clone(clip_skip=1 + more) if more else pipe.conditioner


def part_run(settings: DrawingConfig) -> Part:
    """Which steps of a run that starts from a picture are run."""
    strength = 1.0 if settings.strength is None else settings.strength
    return part_of(settings.steps, strength, profile=settings.profile, fixed=settings.fixed_steps)
