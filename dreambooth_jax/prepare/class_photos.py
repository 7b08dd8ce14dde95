# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The class images of a run, from its settings: ``dreambooth-jax prior``, and a part of ``train``."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from signal import SIGINT

import jax
import numpy as np

from dreambooth_jax import distributed, memory
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, DataConfig, PriorConfig
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


def make_class_images(config: Config) -> Path:
    """Only the class images of a run, which training finds later. Returns their folder."""
    check_config(config)
    if config.train.deterministic:
        make_deterministic()
    if not config.prior.weight:
        raise InputError("prior.weight is 0: this run uses no class images")
    folder = class_folder(config)
    check_hosts(config, folder)
    pipe = load_model(config, Target.here())
    check_same("weights of the model", pipe.components.fingerprint)
    with locked(Path(config.run_dir)), Interrupt() as interrupt:
        stop = interrupt.requested_anywhere
        class_photos(pipe, prior=config.prior, data=config.data, folder=folder, should_stop=stop)
    if interrupt.signal is SIGINT:  # Ctrl-C: what is made is kept, but what was to come after must not
        log.info("stopped; the class images so far are in %s, run the same command to go on", folder)
        raise KeyboardInterrupt
    return folder


def class_folder(config: Config) -> Path:
    """Where the class images of a run belong.

    Raises:
        InputError: if they cannot be read from there, or written to it.
    """
    own, instance = config.prior.class_images, config.data.instance_images
    folder = at_home(own) if own else RunFolder(Path(config.run_dir)).class_images
    file = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if file.exists() and not file.is_dir():
        raise InputError(f"prior.class_images={own}: {file} is a file; name a folder")
    if own and instance and folder.resolve() == Path(instance).resolve():
        raise InputError(f"prior.class_images={own} is the folder of the instance images: name another")
    if folder.is_dir() and not usable_pictures(folder):
        check_deeper(folder, named=())
    return folder


def class_photos(
    pipe: Pipeline,
    *,
    prior: PriorConfig,
    data: DataConfig,
    folder: Path,
    should_stop: Callable[[], bool],
    begun_with: str = "",
) -> tuple[Photo, ...] | None:
    """The class images, made where they are not there; None if ``should_stop`` broke it off.

    Args:
        pipe: the frozen model.
        prior: how many, and how made.
        data: words and size.
        folder: where they belong.
        should_stop: asked between batches; of several processes all must get the same answer.
        begun_with: digest of the class images that a run has begun with.
    """
    recipe = Recipe(
        prompt=subject_of(data).fill(prior.class_images_prompt or prior.class_prompt, syntax=prior.prompt_syntax),
        sampling=prior.sampling(size=data.size),
        model=pipe.components.known_as({line.get("model") for line in read_manifest(folder)}),
    )
    batch_size = partial(_pictures_at_once, pipe, prior, data)
    if not restore_class_images(
        pipe,
        folder,
        recipe,
        num_images=prior.num_images,
        batch_size=partial(batch_size, prior.num_images),
        should_stop=should_stop,
    ):
        return None
    present = ensure_class_images(
        pipe,
        folder,
        recipe,
        num_images=prior.num_images,
        seed=prior.seed,
        batch_size=batch_size(prior.num_images - len(usable_pictures(folder))),
        should_stop=should_stop,
    )
    if present < prior.num_images:
        return None
    wait_until(lambda: len(usable_pictures(folder)) >= present)  # process 0 may have written them on another host
    photos = read_photos(str(folder), prompt=prior.class_prompt, data=data)
    first = photos[: prior.num_images]
    if len(first) == len(photos) or digest(photos) == begun_with:  # versions before took all
        return photos
    log.warning("%s: holds %d pictures; the first prior.num_images=%d are used", folder, len(photos), prior.num_images)
    return first


def _pictures_at_once(pipe: Pipeline, prior: PriorConfig, data: DataConfig, missing: int) -> int:
    """Of this process, on all its devices."""
    device, room = pipe.target.local[0], pipe.target.memory
    room = None if room is None else room - memory.used(device) + memory.bytes_per_device(pipe.params)
    own = -(-missing // jax.process_count())
    batch_size = class_batch(pipe, prior=prior, size=data.size, room=room, missing=own)
    return int(distributed.gather(np.int32(batch_size)).min()) * len(pipe.target.local)  # what fits on every host
