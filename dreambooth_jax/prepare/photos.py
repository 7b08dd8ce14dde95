# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The pictures that a run's settings name, with their prompts."""

import hashlib
import logging
from collections.abc import Sequence

from dreambooth_jax.config import DataConfig
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import Photo, load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.load import EMBEDDED

log = logging.getLogger(__name__)


def subject_of(data: DataConfig) -> Subject:
    """The words of a run."""
    return Subject(identifier=data.identifier, class_noun=data.class_noun)


def read_photos(source: str, *, prompt: str, data: DataConfig) -> tuple[Photo, ...]:
    """Usable pictures of a source, with their prompts."""
    return load_images(
        str(EMBEDDED / "subject") if source == "embedded" else source,
        prompt=prompt,
        subject=subject_of(data),
        use_captions=data.use_captions,
        background=data.background,
        size=data.size,
    )


def check_captions(photos: Sequence[Photo], data: DataConfig) -> None:
    """Warn of captions without the identifier: their photos teach it nothing, and change the class instead."""
    template = subject_of(data).fill(data.instance_prompt)  # what is wrong with this is said before
    silent = [p.prompt for p in photos if data.identifier.strip() not in p.prompt and p.prompt != template]
    if silent:
        log.warning(
            "%d of %d captions do not have the identifier %r, such as %r: their photos change the whole class; write "
            "{identifier} into them, or data.use_captions=false",
            len(silent),
            len(photos),
            data.identifier,
            silent[0],
        )


def check_fit(pipe: Pipeline, data: DataConfig) -> None:
    """Say what the identifier and the size of pictures are to this model.

    Raises:
        InputError: if the identifier tokenises into nothing, or the model cannot make pictures, or none of this size.
    """
    pipe.check_text_to_image()
    log.info("%s", pipe.tokenizer.report(data.identifier))
    factor = pipe.vae.config.downscale
    if any(side % factor for side in data.size):
        raise InputError(f"data.resolution={data.resolution} is no multiple of {factor}, the autoencoder's factor")
    native = (pipe.unet.config.sample_size or 0) * factor
    if native and native != data.resolution:
        log.warning("the model was made for %d pixels, not data.resolution=%s: expect less", native, data.resolution)


def digest(photos: Sequence[Photo]) -> str:
    """Changes with any picture or prompt."""
    text = "\n".join(f"{photo.digest} {photo.background} {photo.prompt}" for photo in photos)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
