# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures that are validated with and not trained on."""

from collections.abc import Sequence

from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import Concept
from dreambooth_jax.data import host_rng
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare.photos import read_photos


def split_photos(
    config: Config, concept: Concept, photos: Sequence[Photo]
) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    """(photos of a subject to train on, pictures to validate with).

    Args:
        config: of the run.
        concept: the subject.
        photos: of it. Which are held out depends on the seed and their number.

    Raises:
        InputError: if none would be left to train on, or the folder of other pictures cannot be read.
    """
    validation, count = config.validation, len(photos)
    if validation.images:
        others = read_photos(validation.images, prompt=concept.instance_prompt, concept=concept, data=config.data)
        return tuple(photos), others
    held = round(validation.holdout * (count if validation.holdout < 1 else 1))
    held = max(held, 1) if validation.holdout else 0
    if held >= count:
        raise InputError(
            f"validation.holdout {validation.holdout:g} would leave none of the {count} photos in "
            f"{concept.instance_images} to train on: hold out fewer, or give others in validation.images"
        )
    chosen = set(host_rng.permutation(count, config.train.seed, "validation", concept.name)[:held].tolist())
    kept = tuple(photo for i, photo in enumerate(photos) if i not in chosen)
    return kept, tuple(photo for i, photo in enumerate(photos) if i in chosen)
