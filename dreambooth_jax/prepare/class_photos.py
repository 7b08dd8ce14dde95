# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The class images of a run, from its settings: ``dreambooth-jax prior``, and a part of ``train``."""

import logging
import os
import re
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from pathlib import Path
from signal import SIGINT
from typing import Any, TypeAlias

import jax
import numpy as np

from dreambooth_jax import distributed, memory
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, DataConfig, PriorConfig
from dreambooth_jax.config.concepts import Concept, concepts_of, makes_class_images
from dreambooth_jax.data.sources import Photo, check_deeper
from dreambooth_jax.deterministic import make_deterministic
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.batch_size import class_batch
from dreambooth_jax.prepare.class_image_store import Recipe, read_manifest, usable_pictures
from dreambooth_jax.prepare.class_images import ensure_class_images, restore_class_images
from dreambooth_jax.prepare.model import load_model
from dreambooth_jax.prepare.multihost import check_hosts, check_same, wait_until
from dreambooth_jax.prepare.photos import digest, read_photos, subject_of
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.target import Target
from dreambooth_jax.training.interrupt import Interrupt

log = logging.getLogger(__name__)

ReadClasses: TypeAlias = dict[tuple[Hashable, ...], tuple[Photo, ...]]
"""Pictures of classes, by all that they depend on but the model."""


def make_class_images(config: Config) -> Path:
    """Only the class images of a run, which training finds later. Returns the folder that they are in."""
    check_config(config)
    if config.train.deterministic:
        make_deterministic()
    folders = class_folders(config)
    if not folders:
        why = f"weight is {config.prior.weight:g}" if config.prior.kind == "pictures" else "kind is teacher"
        raise InputError(f"prior.{why}: this run uses no class images")
    check_hosts(config, *folders.values())
    pipe = load_model(config, Target.here())
    check_same("weights of the model", pipe.components.fingerprint)
    with locked(Path(config.run_dir)), Interrupt() as interrupt:
        made = photos_of_classes(pipe, config=config, folders=folders, should_stop=interrupt.requested_anywhere)
    folder = common_folder(folders.values())
    if made is None:
        log.info("stopped; the class images so far are in %s, run the same command to go on", folder)
    if interrupt.signal is SIGINT:  # Ctrl-C: what is made is kept, but what was to come after must not
        raise KeyboardInterrupt
    return folder


def class_folders(config: Config) -> dict[str, Path]:
    """Where the class images of each concept belong, by its name; those without class images are left out."""
    if not makes_class_images(config):
        return {}
    return {concept.name: class_folder(config, concept) for concept in concepts_of(config) if concept.weight}


def class_folder(config: Config, concept: Concept) -> Path:
    """Where the class images of a concept belong.

    Raises:
        InputError: if they cannot be read from there, or written to it.
    """
    shared = at_home(config.prior.class_images or RunFolder(Path(config.run_dir)).class_images)
    own = concept.class_images or config.prior.class_images
    key = f"{concept.key}.class_images" if concept.name and concept.class_images else "prior.class_images"
    folder = at_home(concept.class_images) if concept.class_images else shared
    if concept.name and not concept.class_images:
        folder = shared / _word(images_prompt(concept, config.prior), config)
    file = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if file.exists() and not file.is_dir():
        raise InputError(f"{key}={own}: {file} is a file; name a folder")
    if own and any(
        one.instance_images and folder.resolve() == at_home(one.instance_images).resolve()
        for one in concepts_of(config)
    ):
        raise InputError(f"{key}={own} is the folder of the instance images: name another")
    if folder.is_dir() and not usable_pictures(folder):
        check_deeper(folder, named=())
    return folder


def _word(prompt: str, config: Config) -> str:
    """A folder's name for what is made with a prompt, none that another of the run's has."""
    prompts = {images_prompt(one, config.prior) for one in concepts_of(config)}
    words = _in_words(prompt)
    is_short = len(words) <= 60 and [_in_words(one) for one in prompts].count(words) == 1
    return words if is_short else f"{words[:50]}_{zlib.crc32(prompt.encode()):08x}"


def _in_words(prompt: str) -> str:
    return "_".join(re.findall(r"\w+", prompt.lower()))


def common_folder(folders: Iterable[Path]) -> Path:
    """The folder that all of these are in, or are."""
    first, *others = dict.fromkeys(folders)
    return first if not others else Path(os.path.commonpath([os.path.abspath(folder) for folder in (first, *others)]))


def images_prompt(concept: Concept, prior: PriorConfig) -> str:
    """What the class images of a concept are made with."""
    return subject_of(concept).fill(concept.class_images_prompt, syntax=prior.prompt_syntax)


def photos_of_classes(
    pipe: Pipeline,
    *,
    config: Config,
    folders: Mapping[str, Path],
    should_stop: Callable[[], bool],
    begun_with: str = "",
    read: ReadClasses | None = None,
) -> dict[str, tuple[Photo, ...]] | None:
    """Class images by the names of concepts, made where they are not there; None if ``should_stop`` broke it off.

    Concepts of one class share theirs.

    Args:
        pipe: the frozen model.
        config: of the run.
        folders: of :func:`class_folders`.
        should_stop: asked between batches; of several processes all must get the same answer.
        begun_with: digest of the class images that a run of one concept has begun with.
        read: what was read before; it learns what is read now.
    """
    found: dict[str, tuple[Photo, ...]] = {}
    read = {} if read is None else read
    for concept in concepts_of(config):
        if concept.name not in folders:
            continue
        key = _recipe(concept, config, folders[concept.name], begun_with)
        if key not in read:
            photos = class_photos(
                pipe,
                concept=concept,
                prior=config.prior,
                data=config.data,
                folder=folders[concept.name],
                should_stop=should_stop,
                begun_with=begun_with,
            )
            if photos is None:
                return None
            read[key] = photos
        found[concept.name] = read[key]
    return found


def _recipe(concept: Concept, config: Config, folder: Path, begun_with: str) -> tuple[Hashable, ...]:
    """All that the class images of a concept depend on, the model apart."""
    prior, data = config.prior, config.data
    made = (images_prompt(concept, prior), prior.sampling(size=data.size), prior.seed, concept.num_images)
    called = (subject_of(concept).fill(concept.class_prompt), data.use_captions, data.background, data.size)
    return folder, begun_with, *made, *called


def class_photos(
    pipe: Pipeline,
    *,
    concept: Concept,
    prior: PriorConfig,
    data: DataConfig,
    folder: Path,
    should_stop: Callable[[], bool],
    begun_with: str = "",
) -> tuple[Photo, ...] | None:
    """The class images of one concept, made where they are not there; None if ``should_stop`` broke it off.

    Where none are to be made, it is all pictures that are there.

    Args:
        pipe: the frozen model.
        concept: its words and prompts, and how many.
        prior: how they are made.
        data: their size.
        folder: where they belong.
        should_stop: asked between batches; of several processes all must get the same answer.
        begun_with: digest of the class images that a run has begun with.
    """
    read = partial(_read, folder, concept, data)
    num_images = concept.num_images
    if not num_images:
        _check_there(folder)
        return read()
    recipe = Recipe(
        prompt=images_prompt(concept, prior),
        sampling=prior.sampling(size=data.size),
        model=pipe.components.known_as({line.get("model") for line in read_manifest(folder)}),
    )
    batch_size = partial(_pictures_at_once, pipe, prior, data)
    options: dict[str, Any] = {"num_images": num_images, "should_stop": should_stop}
    if not restore_class_images(pipe, folder, recipe, batch_size=partial(batch_size, num_images), **options):
        return None
    present = ensure_class_images(
        pipe,
        folder,
        recipe,
        seed=prior.seed,
        batch_size=batch_size(num_images - len(usable_pictures(folder))),
        **options,
    )
    if present < num_images:
        return None
    wait_until(lambda: len(usable_pictures(folder)) >= present)  # process 0 may have written them on another host
    photos = read()
    used = _used(photos, num_images, begun_with)
    if len(used) < len(photos):
        log.warning("%s: holds %d pictures; the first prior.num_images=%d are used", folder, len(photos), num_images)
    return used


def _read(folder: Path, concept: Concept, data: DataConfig) -> tuple[Photo, ...]:
    return read_photos(str(folder), prompt=concept.class_prompt, concept=concept, data=data)


def _used(photos: tuple[Photo, ...], num_images: int, begun_with: str) -> tuple[Photo, ...]:
    """Those of a folder that are learned from: as many as are asked for, or, by versions before, all."""
    first = photos[: num_images or None]
    return photos if len(first) == len(photos) or digest(photos) == begun_with else first


def class_images_there(config: Config, *, begun_with: str, read: ReadClasses) -> str:
    """Digest of a run's class images, as they lie there now; empty where there are none, or some are missing.

    Args:
        config: of the run.
        begun_with: digest of those that it has begun with.
        read: what was read before; it learns what is read now.

    Raises:
        InputError: if one cannot be read.
    """
    found: list[Photo] = []
    for name, folder in class_folders(config).items():
        (concept,) = (one for one in concepts_of(config) if one.name == name)
        if not folder.is_dir() or len(usable_pictures(folder)) < concept.num_images:
            return ""
        key = _recipe(concept, config, folder, begun_with)
        if key not in read:
            read[key] = _used(_read(folder, concept, config.data), concept.num_images, begun_with)
        found += read[key]
    return digest(found) if found else ""


def _check_there(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"prior.num_images is 0, so no class images are made, and there is no folder {folder}")


def _pictures_at_once(pipe: Pipeline, prior: PriorConfig, data: DataConfig, missing: int) -> int:
    """Of this process, on all its devices."""
    device, room = pipe.target.local[0], pipe.target.memory
    room = None if room is None else room - memory.used(device) + memory.bytes_per_device(pipe.params)
    own = -(-missing // jax.process_count())
    batch_size = class_batch(pipe, prior=prior, size=data.size, room=room, missing=own)
    return int(distributed.gather(np.int32(batch_size)).min()) * len(pipe.target.local)  # what fits on every host
