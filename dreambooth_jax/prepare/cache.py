# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Frozen towers run once: moments of every view of every photo, states of every text.

Moments are kept on disk too, under a name made from all that they depend on (the photos' contents, their views and
size, the model and the dtype that it encodes in), so that a resumed run does not encode again and a changed photo
cannot be missed.

Several processes encode a share of the photos each, and all get the moments of all.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import jax
import numpy as np
from jaxtyping import Float32, Int

from dreambooth_jax import distributed
from dreambooth_jax.config import DataConfig
from dreambooth_jax.config.drawing import BEAUTIFUL
from dreambooth_jax.data import images
from dreambooth_jax.data.buckets import bucket_sizes, nearest
from dreambooth_jax.data.images import to_float
from dreambooth_jax.data.sources import Photo
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.batch_size import encoded_at_once
from dreambooth_jax.progress import Progress
from dreambooth_jax.size import Size
from dreambooth_jax.trees import Tree


@dataclass(frozen=True, kw_only=True)
class Views:
    """How photos are seen."""

    size: Size
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    seed: int = 0
    colour: float = field(default=0.0, repr=False)  # what is cached without it keeps its name


Moments = tuple[Float32[np.ndarray, "n v h w c"], Float32[np.ndarray, "n v h w c"]]


def cache_key(photos: Sequence[Photo], views: Views, model: str, dtype: str = "float32") -> str:
    """Changes with anything that the moments depend on."""
    colour = [f"colour {views.colour}"] if views.colour else []
    parts = [repr(views), *colour, model, dtype, *(f"{photo.digest} {photo.background}" for photo in photos)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def latent_moments(
    pipe: Pipeline,
    photos: Sequence[Photo],
    views: Views,
    *,
    folder: str | Path,
    model: str,
    dtype: str = "float32",
    batch_size: int = 4,
) -> Moments:
    """(mean, logvar) of every view of every photo, raw (unscaled), from the cache if they are there.

    Args:
        pipe: its autoencoder is used.
        photos: n of them.
        views: v views each.
        folder: of the cache; made if it is not there.
        model: fingerprint of the weights.
        dtype: that the autoencoder encodes in.
        batch_size: views encoded at once. Always so many, so that the encoder compiles once.

    Raises:
        InputError: naming the photo, if the encoder gives something that is not finite.
    """
    path = Path(folder) / f"moments-{cache_key(photos, views, model, dtype)}.npz"
    stored = _read(path)
    if distributed.gather(stored is not None).all() and stored is not None:
        return stored
    mean, logvar = _encode_shares(pipe, photos, views, batch_size)
    for photo, m, v in zip(photos, mean, logvar):
        if not (np.isfinite(m).all() and np.isfinite(v).all()):
            raise InputError(f"{photo.name}: the autoencoder gives NaN, in {dtype}; use another one as model.vae")
    if distributed.is_main():
        _write(path, mean, logvar)
    return mean, logvar


def _encode_shares(pipe: Pipeline, photos: Sequence[Photo], views: Views, batch_size: int) -> Moments:
    n = len(photos)
    share = -(-n // jax.process_count())
    first = share * jax.process_index()
    own = [photos[min(i, n - 1)] for i in range(first, first + share)]  # the last one fills up what is missing

    def of_all(part: np.ndarray) -> np.ndarray:
        return distributed.gather(part).reshape(-1, *part.shape[1:])[:n]

    mean, logvar = _encode_all(pipe, own, views, batch_size)
    return of_all(mean), of_all(logvar)


def _arguments(views: Views) -> dict[str, Any]:
    return {entry.name: getattr(views, entry.name) for entry in fields(views)}


def _encode_all(pipe: Pipeline, photos: Sequence[Photo], views: Views, batch_size: int) -> Moments:
    def pictures(photo: Photo) -> np.ndarray:
        return photo.views(**_arguments(views))

    waiting: list[np.ndarray] = []
    done: list[tuple[np.ndarray, np.ndarray]] = []

    def encode(some: list[np.ndarray]) -> None:
        full = np.stack(some + [some[0]] * (batch_size - len(some)))
        mean, logvar = pipe.encode_images(pipe.params, to_float(full))
        done.append((np.asarray(mean)[: len(some)], np.asarray(logvar)[: len(some)]))

    hidden = not distributed.is_main()
    for photo in Progress(photos, desc="latents", unit="photo", disable=hidden):
        waiting.extend(pictures(photo))
        while len(waiting) >= batch_size:
            encode(waiting[:batch_size])
            del waiting[:batch_size]
    if waiting:
        encode(waiting)
    mean, logvar = (np.concatenate(parts).astype(np.float32) for parts in zip(*done))
    n = len(photos)
    return mean.reshape(n, -1, *mean.shape[1:]), logvar.reshape(n, -1, *logvar.shape[1:])


def _read(path: Path) -> Moments | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return stored["mean"], stored["logvar"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # not there, or torn: encoding again is always right


def _write(path: Path, mean: np.ndarray, logvar: np.ndarray) -> None:
    unfinished = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, mean=mean, logvar=logvar)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Photos of one kind and the moments of their latents."""

    photos: Sequence[Photo]
    moments: Moments
    weights: Float32[np.ndarray, "n v h w"] | None = None
    """Of the loss at each latent; None where all count whole."""
    sizes: Float32[np.ndarray, "n v 6"] | None = None
    """What a denoiser is told of views that knows of sizes."""

    @property
    def size(self) -> Size:
        """Height and width of their latents."""
        return Size(*self.moments[0].shape[2:4])


def buckets_of(data: DataConfig) -> tuple[Size, ...]:
    """The shapes that a run cuts its photos to."""
    return bucket_sizes(data.size, count=data.buckets, step=data.bucket_step, longest=data.bucket_ratio)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Encodes the photos of a run. What it has given once it gives again.

    Class images are seen as they were made: cutting or mirroring them adds nothing that the model doesn't know.

    Attributes:
        pipe: its autoencoder is used.
        data: how the subjects' photos are seen.
        seed: of random crops.
        cache: folder of what was encoded before.
        given: what it has given; encoders of one model may share it.
    """

    pipe: Pipeline
    data: DataConfig
    seed: int
    cache: Path
    given: dict[Any, Examples] = field(default_factory=dict)

    def instance(self, photos: Sequence[Photo]) -> list[Examples]:
        """Photos of a subject, with the moments of their latents: those of each bucket that some are in."""
        data, buckets = self.data, buckets_of(self.data)
        own = [nearest(photo.shape, buckets) for photo in photos]
        return [
            self._examples(
                [photo for photo, size in zip(photos, own) if size == bucket],
                Views(size=bucket, crop=data.crop, flip=data.flip, seed=self.seed, colour=data.colour),
            )
            for bucket in buckets
            if bucket in own
        ]

    def prior(self, photos: Sequence[Photo]) -> Examples:
        """Pictures of a class."""
        return self._examples(photos, Views(size=self.data.size))

    def _weights(self, photos: Sequence[Photo], views: Views) -> Float32[np.ndarray, "n v h w"] | None:
        if self.data.masks == "none":
            return None
        factor, least = self.pipe.vae.config.downscale, np.float32(self.data.unmasked_weight)
        masks = np.stack([photo.latent_masks(**_arguments(views), factor=factor) for photo in photos])
        return 1 - (1 - least) * (1 - masks)  # of a photo without a mask exactly 1

    def _sizes(self, photos: Sequence[Photo], views: Views) -> Float32[np.ndarray, "n v s"] | None:
        if not self.pipe.unet.config.takes_sizes:
            return None
        how: dict[str, Any] = {"flip": views.flip, "seed": views.seed, "colour": views.colour}

        def told(photo: Photo) -> list[tuple[int | float, ...]]:
            own, seen = images.full_size(photo.file), images.views(views.crop, digest=photo.digest, **how)
            whole = [images.told_sizes(own, size=views.size, view=view) for view in seen]
            return [self.pipe.components.family.sizes(one, BEAUTIFUL) for one in whole]

        return np.asarray([told(photo) for photo in photos], np.float32)

    def _examples(self, photos: Sequence[Photo], views: Views) -> Examples:
        pipe, masks = self.pipe, (self.data.masks, self.data.unmasked_weight)
        key = (tuple(photos), views, masks)
        if key not in self.given:
            moments = latent_moments(
                pipe,
                photos,
                views,
                folder=self.cache,
                model=pipe.components.fingerprint,
                dtype=np.dtype(pipe.vae.encoding_dtype).name,
                batch_size=encoded_at_once(pipe.target),
            )
            self.given[key] = Examples(
                photos=photos, moments=moments, weights=self._weights(photos, views), sizes=self._sizes(photos, views)
            )
        return self.given[key]


def text_table(
    pipe: Pipeline, prompts: Sequence[str], *, params: Tree, encode: bool
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, "n"]]:
    """(different texts, which of them each prompt is).

    Args:
        pipe: tokenizers and text encoders.
        prompts: n of them.
        params: the text encoders' weights to use: the trained ones, where they have been trained.
        encode: give ``condition/…``, for text encoders that rest; else ``input_ids/…``, for those that are trained, and
            of a model that is told nothing of empty texts ``silent``.
    """
    different = sorted(set(prompts))
    index = np.asarray([different.index(prompt) for prompt in prompts], np.int64)
    if not encode:
        return pipe.text_leaves(different), index
    leaves = pipe.condition_to_learn(params, different).leaves()
    return {name: np.asarray(leaf, np.float32) for name, leaf in leaves.items()}, index
