# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a caller asks a pipeline for, checked: one text, one seed and one latent for each picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.data.masks import Mask, read_masks
from dreambooth_jax.data.pictures import Picture, Source, read_pictures
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.arguments import check, texts_of
from dreambooth_jax.pipeline.controls import Control
from dreambooth_jax.pipeline.model import Model

ALPHA = "alpha"
"""The mask that is where the given image is transparent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a call asks for, before anything of the model is looked at. Lists have an entry for each picture."""

    prompts: list[str]
    negative_prompts: list[str]
    seeds: list[int]
    sampling: DrawingConfig
    latents: Array | np.ndarray | None
    """To start from; shape and values are checked where the pictures' size is known."""
    image: list[Picture] | None = None
    """One for all, or one for each picture; with opacity where that is the mask."""
    mask: list[Mask] | None = None
    """One for all, or one for each picture."""
    controls: tuple[Control, ...] = ()
    refiner: Model | None = None
    """Draws the last steps."""
    variations: list[int] | None = None
    """Seeds to lean to, where ``seeds`` are those of a picture that is varied."""


def read_request(
    prompts: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] | None,
    seed: int | Sequence[int],
    sampling: SamplingConfig | None,
    options: dict[str, Any],
    latents: Array | np.ndarray | None,
    image: Source | Sequence[Source] | None = None,
    controls: tuple[Control, ...] = (),
    mask: Source | Sequence[Source] | None = None,
    refiner: Model | None = None,
) -> Request:
    """The arguments of a call, checked.

    Raises:
        InputError: naming the argument that is wrong.
    """
    sampling = sampling_of(sampling, options)
    texts = texts_of("prompts", prompts)
    by_alpha = isinstance(mask, str) and mask == ALPHA
    without = image is not None or (mask is None and not any(sampling.outpaint))
    check("image", image, without, "must be given where there is a mask, or something to outpaint")
    negative_prompt = sampling.negative_prompt if negative_prompt is None else negative_prompt
    below = 2**32 if sampling.noise == "jax" else 2**64
    check("refiner", type(refiner), refiner is None or isinstance(refiner, Model), "must be a Pipeline")
    seeds, base = seeds_of(seed, len(texts), below=below), sampling.variation_of
    check("variation_of", base, base is None or base < below, f"must be from 0 to {below - 1}")
    return Request(
        prompts=texts,
        negative_prompts=texts_of("negative_prompt", negative_prompt, len(texts)),
        seeds=seeds if base is None else [base] * len(seeds),
        variations=None if base is None else seeds,
        sampling=sampling,
        latents=latents,
        controls=controls,
        refiner=refiner,
        image=None if image is None else images_of(image, len(texts), alpha=by_alpha),
        mask=None if mask is None or by_alpha else masks_of(mask, len(texts)),
    )


def given_latents(latents: Array | np.ndarray, shape: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """Latents to start from, in at least float32."""
    if latents.shape != shape:
        raise InputError(f"latents are {latents.shape}: pictures of this number and size have {shape}")
    numbers = np.asarray(latents)
    if not jnp.issubdtype(numbers.dtype, jnp.number) or np.iscomplexobj(numbers) or not np.isfinite(numbers).all():
        raise InputError("latents have values that are no finite real numbers")
    return jnp.asarray(latents, jnp.promote_types(latents.dtype, jnp.float32))


def sampling_of(sampling: SamplingConfig | None, options: dict[str, Any]) -> DrawingConfig:
    """Settings with some options set.

    Raises:
        TypeError: for an option that there is not.
        InputError: for a value out of bounds.
    """
    known = sampling is None or isinstance(sampling, SamplingConfig)
    check("sampling", sampling, known, "must be a SamplingConfig; its fields can be given alone, such as steps=50")
    drawing = DrawingConfig.of(sampling or SamplingConfig()).changed(options)
    check_arguments(drawing)
    return drawing


def images_of(sources: Source | Sequence[Source], count: int, *, alpha: bool) -> list[Picture]:
    """Given pictures: one for all, or one for each of ``count`` prompts; with opacity if ``alpha``."""
    pictures = read_pictures(sources, alpha=alpha)
    check("image", f"{len(pictures)} pictures", len(pictures) in (1, count), f"give one, or one for each of {count}")
    return pictures


def masks_of(sources: Source | Sequence[Source], count: int) -> list[Mask]:
    """Given masks: one for all, or one for each of ``count`` prompts."""
    masks = read_masks(sources)
    check("mask", f"{len(masks)} masks", len(masks) in (1, count), f"give one, or one for each of {count}")
    return masks


def seeds_of(seed: int | Sequence[int], count: int, *, below: int = 2**32) -> list[int]:
    """A seed for each picture; of one seed, the numbers that follow it."""
    given = np.asarray(seed, object)  # as they are: numpy would round what is larger than its own numbers
    seeds = [given.item() + i for i in range(count)] if _is_whole(given.tolist()) else np.atleast_1d(given).tolist()
    check("seed", seed, all(map(_is_whole, seeds)), "must be a whole number, or several")
    check("seed", seed, len(seeds) == count, f"give one, or one for each of {count} prompts")
    # other seeds would make the same keys as their lowest 32 bits do
    check("seed", seed, all(0 <= one < below for one in seeds), f"must be from 0 to {below - 1}, for each picture")
    return [int(one) for one in seeds]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
