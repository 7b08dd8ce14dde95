# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The pictures that a run's settings name, with their prompts."""

import hashlib
import logging
from collections.abc import Iterable, Sequence

from dreambooth_jax.config import DataConfig
from dreambooth_jax.config.concepts import Concept
from dreambooth_jax.data.captions import Captions
from dreambooth_jax.data.loss_masks import MaskKind
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import Photo, load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.load import EMBEDDED
from dreambooth_jax.progress import announced
from dreambooth_jax.prompts.named import expanded

log = logging.getLogger(__name__)

SHIPPED = {"embedded": EMBEDDED / "subject", "embedded-style": EMBEDDED / "style"}
"""Pictures that the package has: a subject that the embedded model never saw, and a style."""


def subject_of(concept: Concept) -> Subject:
    """The words of a concept."""
    return Subject(identifier=concept.identifier, class_noun=concept.class_noun)


def read_photos(
    source: str, *, prompt: str, concept: Concept, data: DataConfig, masks: MaskKind = "none"
) -> tuple[Photo, ...]:
    """Usable pictures of a source, with their prompts.

    Args:
        source: folder, or id of a data set.
        prompt: of those that have no caption.
        concept: its words fill prompts and captions.
        data: how pictures are read.
        masks: what says where they count.
    """
    with announced(f"reading the pictures of {source}", usually="a second for each dozen"):
        return load_images(
            str(SHIPPED.get(source, source)),
            prompt=prompt,
            subject=subject_of(concept),
            use_captions=data.use_captions,
            background=data.background,
            size=data.size,
            masks=masks,
        )


def read_instance_photos(concept: Concept, data: DataConfig) -> tuple[Photo, ...]:
    """The subject's pictures; captions that do not name it get a warning."""
    source, prompt = concept.instance_images, concept.instance_prompt
    photos = read_photos(source, prompt=prompt, concept=concept, data=data, masks=data.masks)
    check_masks(photos, data=data, source=source)
    check_captions(photos, identifier=concept.identifier)
    return photos


def captions_of(concept: Concept, data: DataConfig, *, seed: int) -> Captions:
    """How the photos of a concept are called, from visit to visit."""
    subject = subject_of(concept)
    return Captions(
        templates=tuple(subject.fill(template) for template in expanded(data.templates)),
        orders=data.tag_orders,
        keep=data.keep_tags,
        dropout=data.caption_dropout,
        dropped="" if data.dropout_prompt == "empty" else subject.fill(concept.class_prompt),
        seed=seed,
    )


def check_masks(photos: Sequence[Photo], *, data: DataConfig, source: str) -> None:
    """Warn where masks that are asked for say nothing.

    Raises:
        InputError: a mask leaves nothing of its photo.
    """
    if data.masks == "none":
        return
    masks = {photo.name: mask.getextrema() for photo in photos if (mask := photo.mask())}
    if data.masks == "files" and not masks:
        log.warning("%s: no photo has a mask beside it (photo-mask.png), so all count everywhere", source)
    if data.masks == "alpha" and all(darkest == 255 for darkest, _ in masks.values()):
        log.warning("%s: no photo is transparent anywhere, so all count everywhere", source)
    empty = [name for name, (_, brightest) in masks.items() if brightest == 0]
    if empty and not data.unmasked_weight:
        what = "is transparent" if data.masks == "alpha" else "has a mask that is black"
        raise InputError(
            f"{source}: {empty[0]} {what} all over, so with data.unmasked_weight=0 nothing of it counts: mend it, or "
            "leave it out"
        )


def check_captions(photos: Sequence[Photo], *, identifier: str) -> None:
    """Warn of captions without the identifier: their photos teach it nothing, and change the class instead."""
    silent = [photo.prompt for photo in photos if photo.has_caption and identifier.strip() not in photo.prompt]
    if silent:
        log.warning(
            "%d of %d captions do not have the identifier %r, such as %r: their photos change the whole class; write "
            "{identifier} into them, or data.use_captions=false",
            len(silent),
            len(photos),
            identifier,
            silent[0],
        )


def digest(photos: Iterable[Photo]) -> str:
    """Changes with any picture, prompt, mask or weight."""
    text = "\n".join(
        f"{photo.digest} {photo.background} {photo.prompt}"
        + (photo.mask_digest and f" {photo.mask_digest}")
        + (f" weight {photo.weight!r}" if photo.weight != 1 else "")
        for photo in photos
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
