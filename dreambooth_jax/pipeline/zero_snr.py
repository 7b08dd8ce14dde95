# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model whose noise is rescaled to zero terminal SNR (arXiv 2305.08891), for training and all that is drawn later."""

from dataclasses import replace

from dreambooth_jax.diffusion.schedule import FILE, NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.pipeline import Pipeline

KNOWING = frozenset(
    f"{name}Scheduler"
    for name in ("DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep")
) | {"LCMScheduler", "TCDScheduler"}
"""Classes of diffusers that read ``rescale_betas_zero_snr``; others, such as PNDM, would draw with the old noise."""


def with_zero_terminal_snr(pipe: Pipeline) -> Pipeline:
    """The pipeline with the rescaled schedule, also in the ``scheduler_config.json`` that it is written with.

    Steps then have to begin at the last timestep, where alone nothing but noise is left: ``timestep_spacing`` becomes
    ``trailing``. A scheduler that does not know the rescaling becomes DDIM.

    Raises:
        InputError: for a model that predicts ε, which says nothing of a picture where there is nothing but noise.
    """
    config = dict(pipe.components.scheduler_config)
    if pipe.schedule.prediction_type == "epsilon":
        raise InputError(
            f"objective.zero_terminal_snr needs a model that predicts v or the sample, but {FILE} of this one says "
            "epsilon, which tells nothing where all is noise: leave it out, or take a v-prediction model"
        )
    if config.get("rescale_betas_zero_snr"):
        return pipe
    config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if config.get("_class_name") not in KNOWING:
        config["_class_name"] = "DDIMScheduler"
    components = replace(pipe.components, scheduler_config=config)
    return replace(pipe, components=components, schedule=NoiseSchedule.from_config(config))
