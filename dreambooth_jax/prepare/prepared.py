# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything before the first step: read, check, make class images, encode.

    config -> photos -> model -> does it fit an earlier checkpoint? -> class images -> latents

Whatever can be wrong is found before anything is compiled, and what is made is on disk and not made again.
Several processes first make sure that they mean the same run, then share out what takes long.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dreambooth_jax import distributed
from dreambooth_jax.config import Config, save_config, to_dict
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.prepare.cache import Examples, class_views, encode, instance_views
from dreambooth_jax.prepare.class_photos import check_class_folder, class_folder, class_photos
from dreambooth_jax.prepare.multihost import check_hosts, check_same
from dreambooth_jax.prepare.photos import check_captions, check_fit, digest, read_photos
from dreambooth_jax.runs import RunFolder, known_model, newest_meta, with_absolute_model
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.parallel.sharding import replicate
from dreambooth_jax.training.resume import check_not_beyond, check_same_run


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


def check_folders(config: Config, folder: RunFolder) -> None:
    """Raise InputError unless all processes were given the same settings, and share folders that can be used."""
    if config.prior.weight:
        check_class_folder(config)
    check_hosts(config, folder.path, *([class_folder(config)] if config.prior.weight else []))


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
    check_folders(config, folder)
    meta = newest_meta(folder)
    if meta:
        check_not_beyond(meta, steps=config.train.steps, kept=complete_steps(folder.checkpoints))
    photos = read_photos(config.data.instance_images, prompt=config.data.instance_prompt, data=config.data)
    before_loading()
    pipe = load_pretrained(
        config.model.path,
        revision=config.model.revision,
        variant=config.model.variant,
        dtype=config.train.dtype,
        place=mapper.load,
        target=mapper.target,
    )
    fingerprints = {"model": pipe.components.fingerprint, "instance": digest(photos)}
    check_same("weights of the model", fingerprints["model"])
    check_same("instance images", fingerprints["instance"])
    known = dict(fingerprints)
    if meta:
        known["model"] = known_model(meta, pipe, variant=config.model.variant)
        check_same_run(meta, config=to_dict(config), fingerprints=known)
    check_captions(photos, config.data)
    check_fit(pipe, config.data)
    pipe.tokenizer([photo.prompt for photo in photos])  # warns of prompts that are too long
    if distributed.is_main():
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(folder.config, with_absolute_model(config))
    whole = replace(pipe, params=replicate(pipe.params, mapper.target.mesh))
    class_images = class_photos(
        whole,
        prior=config.prior,
        data=config.data,
        folder=class_folder(config),
        should_stop=interrupt.requested_anywhere,
        begun_with=meta["fingerprints"].get("prior", "") if meta else "",
    )
    if class_images is None:
        return None
    fingerprints["prior"] = known["prior"] = digest(class_images)
    check_same("class images", fingerprints["prior"])
    if meta:
        check_same_run(meta, config=to_dict(config), fingerprints=known)
    views = instance_views(config.data, seed=config.train.seed)
    return Prepared(
        pipe=pipe,
        instance=encode(whole, photos, views, cache=folder.cache),
        prior=encode(whole, class_images, class_views(config.data), cache=folder.cache) if class_images else None,
        first_step=meta["step"] if meta else 0,
        fingerprints=fingerprints,
    )
