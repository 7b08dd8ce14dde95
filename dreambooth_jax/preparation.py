# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything before the first step: read, check, make class images, encode.

    config -> photos -> model -> does it fit an earlier checkpoint? -> class images -> latents

Whatever can be wrong is found before anything is compiled, and what is made is on disk and not made again.
Several processes first make sure that they mean the same run, then share out what takes long.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_jax import distributed
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, save_config, to_dict
from dreambooth_jax.deterministic import make_deterministic
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare import inputs
from dreambooth_jax.prepare.agreement import check_same, check_shared
from dreambooth_jax.runs import RunFolder, newest_meta
from dreambooth_jax.target import Target
from dreambooth_jax.training.everywhere import everywhere
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import Mapper
from dreambooth_jax.training.resume import check_same_run
from dreambooth_jax.weights.fingerprint import fingerprint


def make_class_images(config: Config) -> Path:
    """Only the class images of a run, which training finds later. Returns their folder."""
    check_config(config)
    if config.train.deterministic:
        make_deterministic()
    if not config.prior.weight:
        raise InputError("prior.weight is 0: this run uses no class images")
    folder = class_folder(config)
    check_hosts(config, folder)
    pipe = inputs.open_pretrained(config.model, target=Target.here(), dtype=config.train.dtype)
    check_same("weights of the model", fingerprint(pipe.components.folder))
    inputs.check_fit(pipe, config.data)
    with Interrupt() as interrupt:
        stop = interrupt.requested_anywhere
        inputs.class_photos(pipe, prior=config.prior, data=config.data, folder=folder, should_stop=stop)
    return folder


def check_hosts(config: Config, *folders: Path) -> None:
    """Raise InputError unless all processes were given the same settings and share these folders."""
    check_same("settings", json.dumps(to_dict(config)))
    for folder in folders:
        check_shared(folder)


def class_folder(config: Config) -> Path:
    """Where the class images of a run belong."""
    own = config.prior.class_images
    return Path(own).expanduser() if own else RunFolder(Path(config.run_dir)).class_images


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
    instance: inputs.Examples
    prior: inputs.Examples | None
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
    check_hosts(config, folder.path, *([class_folder(config)] if config.prior.weight else []))
    meta = newest_meta(folder)
    photos = inputs.read_photos(config.data.instance_images, prompt=config.data.instance_prompt, data=config.data)
    before_loading()
    pipe = inputs.open_pretrained(config.model, target=mapper.target, dtype=config.train.dtype, place=mapper.load)
    fingerprints = {"model": fingerprint(pipe.components.folder), "instance": inputs.digest(photos)}
    check_same("weights of the model", fingerprints["model"])
    check_same("instance images", fingerprints["instance"])
    if meta:
        check_same_run(meta, config=to_dict(config), fingerprints=fingerprints)
    inputs.check_fit(pipe, config.data)
    pipe.tokenizer([photo.prompt for photo in photos])  # warns of prompts that are too long
    if distributed.is_main():
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(folder.config, config)
    whole = replace(pipe, params=everywhere(pipe.params, mapper.target.mesh))
    stop = interrupt.requested_anywhere
    class_photos = inputs.class_photos(
        whole, prior=config.prior, data=config.data, folder=class_folder(config), should_stop=stop
    )
    if class_photos is None:
        return None
    fingerprints["prior"] = inputs.digest(class_photos)
    check_same("class images", fingerprints["prior"])
    if meta:
        check_same_run(meta, config=to_dict(config), fingerprints=fingerprints)
    views = inputs.instance_views(config.data, seed=config.train.seed)
    instance = inputs.encode(whole, photos, views, cache=folder.cache)
    prior = None
    if class_photos:
        prior = inputs.encode(whole, class_photos, inputs.class_views(config.data), cache=folder.cache)
    return Prepared(
        pipe=pipe,
        instance=instance,
        prior=prior,
        first_step=meta["step"] if meta else 0,
        fingerprints=fingerprints,
    )
