# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The pretrained model of a run, read or described, which can make pictures of the run's size."""

import logging

from dreambooth_jax.config import Config, ObjectiveConfig
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline, describe_pretrained, load_pretrained
from dreambooth_jax.pipeline.zero_snr import with_zero_terminal_snr
from dreambooth_jax.prepare.cache import buckets_of
from dreambooth_jax.prepare.objective import objective_values
from dreambooth_jax.prepare.words import taught
from dreambooth_jax.target import Target
from dreambooth_jax.weights.pretrained import Place

log = logging.getLogger(__name__)


def load_model(config: Config, target: Target, *, place: Place | None = None) -> Pipeline:
    """The model with its weights, for one run; arguments as in :func:`read_model`.

    Raises:
        InputError: if it cannot be read, or does not fit (:func:`check_fit`).
    """
    pipe = read_model(config, target, place=place)
    check_fit(pipe, config)
    return pipe


def read_model(config: Config, target: Target, *, place: Place | None = None) -> Pipeline:
    """The model with its weights.

    Args:
        config: of a run.
        target: devices to compute on.
        place: puts each leaf onto devices; by default whole on each local one.

    Raises:
        InputError: if it cannot be read.
    """
    model = config.model
    return load_pretrained(
        model.path,
        revision=model.revision,
        variant=model.variant,
        vae=model.vae,
        unet=model.unet,
        tokenizer=model.tokenizer,
        prediction_type=model.prediction_type,
        dtype=config.train.dtype,
        place=place,
        target=target,
    )


def describe_model(config: Config, target: Target) -> Pipeline:
    """The model without its weights: its parameters are shapes.

    Raises:
        InputError: if its configuration cannot be had.
    """
    model = config.model
    return describe_pretrained(
        model.path,
        revision=model.revision,
        vae=model.vae,
        unet=model.unet,
        tokenizer=model.tokenizer,
        prediction_type=model.prediction_type,
        target=target,
        dtype=config.train.dtype,
    )


def check_fit(pipe: Pipeline, config: Config) -> None:
    """Say what the identifier and the size of pictures are to this model.

    Raises:
        InputError: if the identifier tokenises into nothing, or the model cannot make pictures, or none of this size,
            or cannot be trained for this objective.
    """
    data, factor = config.data, pipe.vae.config.downscale
    pipe.check_text_to_image()
    for concept in concepts_of(config):
        log.info("%s", taught(pipe, config).tokenizer.report(concept.identifier))
    for size in buckets_of(data):
        if any(side % factor for side in size):
            key = "data.resolution" if size == data.size else f"data.bucket_step={data.bucket_step}, bucket"
            raise InputError(f"{key}={size.setting} is no multiple of {factor}, the autoencoder's factor")
    objective_values(config.objective, trained_pipe(pipe, config.objective).schedule)
    native = (pipe.unet.config.sample_size or 0) * factor
    if native and native != data.resolution:
        log.warning("the model was made for %d pixels, not data.resolution=%s: expect less", native, data.resolution)


def trained_pipe(pipe: Pipeline, objective: ObjectiveConfig) -> Pipeline:
    """The pipeline with the noise that the run trains with, and its samples and exports are drawn with.

    Raises:
        InputError: if the model cannot be trained with it.
    """
    return with_zero_terminal_snr(pipe) if objective.zero_terminal_snr else pipe
