# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything that a run needs before its first step: the model, the subject's photos and the class's."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax import distributed, memory, pipeline
from dreambooth_jax.config import DataConfig, ModelConfig, PriorConfig
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import Photo, load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import Usage, usage_of
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.prepare.agreement import wait_until
from dreambooth_jax.prepare.cache import Moments, Views, latent_moments
from dreambooth_jax.prepare.class_images import ensure_class_images
from dreambooth_jax.prepare.shelf import Recipe, usable_pictures
from dreambooth_jax.target import Target
from dreambooth_jax.weights.fingerprint import fingerprint
from dreambooth_jax.weights.pretrained import Place

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""The tiny model that ships with the package, and in ``subject/`` five pictures to personalise it with."""
COMPUTE_DTYPES = {"auto": None, "float32": jnp.float32, "bfloat16": jnp.bfloat16}
CPU_BATCH = 4
LARGEST_BATCH = 16
"""Class images at once on each device; with guidance the network sees twice as many, which keeps any device busy."""
ROOM_TO_USE = 0.9
"""Of a device's memory; the rest is lost between blocks."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Photos of one kind and the moments of their latents."""

    photos: Sequence[Photo]
    moments: Moments


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
        resolution=data.resolution,
    )


def open_pretrained(model: ModelConfig, *, target: Target, dtype: str = "auto", place: Place | None = None) -> Pipeline:
    """The model that a config names, with float32 parameters.

    Args:
        model: where it is.
        target: devices to compute on.
        dtype: compute dtype: ``auto``, ``float32`` or ``bfloat16``.
        place: puts each leaf onto devices as it is read; by default whole on each of this process's.
    """
    path, compute = model_path(model), COMPUTE_DTYPES[dtype]
    return load_pretrained(
        path, revision=model.revision, variant=model.variant, dtype=compute, place=place, target=target
    )


def describe_pretrained(model: ModelConfig, *, target: Target, dtype: str = "auto") -> Pipeline:
    """:func:`open_pretrained` without weights: shapes stand for parameters."""
    compute = COMPUTE_DTYPES[dtype]
    return pipeline.describe_pretrained(model_path(model), revision=model.revision, dtype=compute, target=target)


def model_path(model: ModelConfig) -> str | Path:
    """Folder or hub id of the model that a config names."""
    if not model.path:
        raise InputError("model.path is empty: name a folder in the diffusers layout, or a hub id")
    return EMBEDDED if model.path == "embedded" else model.path


def check_fit(pipe: Pipeline, data: DataConfig) -> None:
    """Say what the identifier and the resolution are to this model.

    Raises:
        InputError: if the identifier tokenises into nothing, or the model cannot make pictures of this size.
    """
    log.info("%s", pipe.tokenizer.report(data.identifier))
    factor = pipe.vae.config.downscale
    if data.resolution % factor:
        raise InputError(f"data.resolution={data.resolution} is no multiple of {factor}, the autoencoder's factor")
    native = (pipe.unet.config.sample_size or 0) * factor
    if native and native != data.resolution:
        log.warning("the model was made for %d pixels, not data.resolution=%d: expect less", native, data.resolution)


def class_photos(
    pipe: Pipeline, *, prior: PriorConfig, data: DataConfig, folder: Path, should_stop: Callable[[], bool]
) -> tuple[Photo, ...] | None:
    """The class images, made where they are not there; none where λ is 0; None if ``should_stop`` broke it off.

    Args:
        pipe: the frozen model.
        prior: how many, and how made.
        data: words and resolution.
        folder: where they belong.
        should_stop: asked between batches; of several processes all must get the same answer.
    """
    if not prior.weight:
        return ()
    recipe = Recipe(
        prompt=subject_of(data).fill(prior.class_images_prompt or prior.class_prompt),
        negative_prompt=prior.negative_prompt,
        steps=prior.steps,
        guidance_scale=prior.guidance_scale,
        size=data.resolution,
        model=fingerprint(pipe.components.folder),
    )
    missing = -(-(prior.num_images - len(usable_pictures(folder))) // jax.process_count())
    device = pipe.target.local[0]
    room = pipe.target.memory
    room = None if room is None else room - memory.used(device) + memory.bytes_per_device(pipe.params)
    batch_size = class_batch(pipe, prior=prior, size=data.resolution, room=room, missing=missing)
    batch_size = int(distributed.gather(np.int32(batch_size)).min())  # what fits on every host
    present = ensure_class_images(
        pipe,
        folder,
        recipe,
        num_images=prior.num_images,
        seed=prior.seed,
        batch_size=batch_size * len(pipe.target.local),
        should_stop=should_stop,
    )
    if present < prior.num_images:
        return None
    wait_until(lambda: len(usable_pictures(folder)) >= present)  # process 0 may have written them on another host
    return read_photos(str(folder), prompt=prior.class_prompt, data=data)


def class_batch(
    pipe: Pipeline,
    *,
    prior: PriorConfig,
    size: int,
    room: int | None,
    missing: int,
    usage_at: Callable[[int], Usage] | None = None,
) -> int:
    """Class images to make at once on each device.

    Args:
        pipe: the frozen model.
        prior: a number that is set there is taken.
        size: pixels of a side.
        room: bytes of each device for the model and the work.
        missing: pictures to make, over all devices of this process.
        usage_at: the sampler's memory at so many pictures on each device; by default it is compiled.
    """
    if prior.batch_size is not None:
        return prior.batch_size
    if room is None or pipe.target.arch.platform == "cpu":
        return CPU_BATCH  # its cores are busy with one already
    n = len(pipe.target.local)

    def compiled(batch: int) -> Usage:
        return usage_of(pipe.lower(batch * n, height=size, width=size))

    return largest_batch(usage_at or compiled, room=room, most=-(-min(LARGEST_BATCH * n, missing) // n))


def largest_batch(usage_at: Callable[[int], Usage], *, room: int, most: int) -> int:
    """The largest power of two of pictures whose sampler fits, at least 1.

    It starts at the largest, so that where this fits nothing is compiled that is not used. Where it does not, memory
    of one picture, which is overestimated by a share of what all have in common, says where to look next.

    Args:
        usage_at: the sampler's memory at so many pictures.
        room: bytes of each device for the model and the work.
        most: the result is the first power of two that is no less, or a smaller one.
    """
    batch = 1 << max(most - 1, 0).bit_length()
    while batch > 1:
        usage = usage_at(batch)
        if usage.peak <= ROOM_TO_USE * room:
            break
        each = (usage.temporaries + usage.results) / batch
        fitting = int(max(ROOM_TO_USE * room - usage.arguments, 0) / each)
        batch = min(batch // 2, 1 << max(fitting.bit_length() - 1, 0))
    return batch


def encode(pipe: Pipeline, photos: Sequence[Photo], views: Views, *, cache: Path) -> Examples:
    """Photos with the moments of their latents."""
    model = fingerprint(pipe.components.folder)
    moments = latent_moments(pipe, photos, views, folder=cache, model=model, batch_size=encoded_at_once(pipe.target))
    return Examples(photos=photos, moments=moments)


def encoded_at_once(target: Target) -> int:
    """Views in one batch. On a CPU one for each device: more are no faster there, and each that fills up the last batch
    costs as much as a photo. On accelerators four: they cost little, and one size for all is one program to compile."""
    return len(target.local) * (1 if target.arch.platform == "cpu" else 4)


def instance_views(data: DataConfig, *, seed: int) -> Views:
    """How the subject's photos are seen."""
    return Views(resolution=data.resolution, crop=data.crop, flip=data.flip, seed=seed)


def class_views(data: DataConfig) -> Views:
    """Class images are seen as they were made: cutting or mirroring them adds nothing that the model doesn't know."""
    return Views(resolution=data.resolution)


def digest(photos: Sequence[Photo]) -> str:
    """Changes with any picture or prompt."""
    text = "\n".join(f"{photo.digest} {photo.background} {photo.prompt}" for photo in photos)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
