# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything before the first step: read, check, make class images, encode.

    config -> photos -> model -> does it fit an earlier checkpoint? -> class images -> latents

Whatever can be wrong is found before anything is compiled, and what is made is on disk and not made again.
Several processes first make sure that they mean the same run, then share out what takes long.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dreambooth_jax.config import Config
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.begun import begun_run
from dreambooth_jax.prepare.cache import Examples, encode
from dreambooth_jax.prepare.class_photos import class_folder, class_photos
from dreambooth_jax.prepare.model import load_model
from dreambooth_jax.prepare.multihost import check_hosts, check_same
from dreambooth_jax.prepare.photos import digest, read_instance_photos
from dreambooth_jax.runs import RunFolder, save_settings
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.sharding import replicate


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is there before the first step.

    Attributes:
        pipe: the pretrained model.
        instance: the subject.
        prior: the class, or None without prior preservation.
        first_step: steps that a checkpoint already has.
        fingerprints: of model and pictures, kept in every checkpoint.
    """

    pipe: Pipeline
    instance: Examples
    prior: Examples | None
    first_step: int
    fingerprints: dict[str, str]


def prepare(
    config: Config,
    folder: RunFolder,
    interrupt: Interrupt,
    mapper: Mapper,
    *,
    before_loading: Callable[[], None] = lambda: None,
) -> Prepared | None:
    """Read and check everything, then make class images and latents. None if a signal broke that off.

    The model is loaded to where the mapper wants it. For class images and latents there is a whole copy on each device,
    which is gone when this returns.

    Args:
        config: of the run.
        folder: of the run.
        interrupt: asked between batches.
        mapper: places the model.
        before_loading: called before the model's weights are read; refuses the run by raising.
    """
    of_class = class_folder(config) if config.prior.weight else None
    check_hosts(config, folder.path, *([of_class] if of_class else []))
    begun = begun_run(folder, steps=config.train.steps)
    photos = read_instance_photos(config.data)
    fingerprints = {"instance": digest(photos)}
    before_loading()
    pipe = load_model(config, mapper.target, place=mapper.load)
    fingerprints["model"] = pipe.components.fingerprint
    check_same("weights of the model", fingerprints["model"])
    check_same("instance images", fingerprints["instance"])
    begun.check_unchanged(config, pipe, fingerprints)
    pipe.tokenizer([photo.prompt for photo in photos])  # warns of prompts that are too long
    save_settings(config, folder)
    whole = replace(pipe, params=replicate(pipe.params, mapper.target.mesh))
    class_images: tuple[Photo, ...] | None = ()
    if of_class:
        class_images = class_photos(
            whole,
            prior=config.prior,
            data=config.data,
            folder=of_class,
            should_stop=interrupt.requested_anywhere,
            begun_with=begun.class_images,
        )
    if class_images is None:
        return None
    fingerprints["prior"] = digest(class_images)
    check_same("class images", fingerprints["prior"])
    begun.check_unchanged(config, pipe, fingerprints)
    instance, prior = encode(
        whole, instance=photos, prior=class_images, data=config.data, seed=config.train.seed, cache=folder.cache
    )
    return Prepared(pipe=pipe, instance=instance, prior=prior, first_step=begun.first_step, fingerprints=fingerprints)
