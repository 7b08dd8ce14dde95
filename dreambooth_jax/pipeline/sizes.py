# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a call draws on, how large, and how much of a picture changes: what its settings leave to pictures and model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.sampling import LARGEST_SIDE
from dreambooth_jax.data.pictures import picture_size
from dreambooth_jax.pipeline.arguments import check
from dreambooth_jax.pipeline.canvas import Canvas, make_canvas
from dreambooth_jax.pipeline.controls import controls_of, first_map
from dreambooth_jax.pipeline.hires import second_size
from dreambooth_jax.pipeline.inpaint import fills_masks
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.request import Request, read_request
from dreambooth_jax.pipeline.upscale import small_canvas, upscales
from dreambooth_jax.size import Size


def placed(pipe: Model, request: Request) -> tuple[Request, Canvas | None]:
    """What a request draws on, and the request with that size, and with a strength."""
    settings, factor, native = request.sampling, pipe.vae.config.downscale, pipe.native_size
    lying = first_map(request.controls)
    if request.image is None and lying is not None and request.latents is None:
        told = {"height": settings.height, "width": settings.width}
        size = picture_size(lying, **told, factor=factor, most=LARGEST_SIDE)
        return replace(request, sampling=replace(settings, **size._asdict())), None
    if request.image is None and not upscales(pipe):
        return request, None
    if upscales(pipe):
        canvas = small_canvas(pipe, request.image)
    else:
        canvas = make_canvas(request.image or [], request.mask, settings, factor=factor, native=native)
    settings = replace(with_strength(pipe, settings), **canvas.size._asdict())
    return replace(request, sampling=settings), canvas


def settled(pipe: Model, sampling: DrawingConfig, given: Mapping[str, Any]) -> DrawingConfig:
    """Settings with the size and the strength that a call with given pictures draws at; of two passes the larger size.

    Args:
        pipe: the model.
        sampling: the settings.
        given: image, mask and control by name, as a call takes them.
    """
    request = read_request(
        "",
        negative_prompt=None,
        seed=0,
        sampling=sampling,
        options={},
        latents=None,
        image=given.get("image"),
        mask=given.get("mask"),
        controls=controls_of(given.get("control")),
    )
    request, _ = placed(pipe, request)
    larger = hires_size(pipe, request)._asdict() if sampling.hires_scale > 1 else {}
    return replace(request.sampling, **larger)


def with_strength(pipe: Model, settings: DrawingConfig) -> DrawingConfig:
    """Settings of a run from a picture with what the strength is by default."""
    if upscales(pipe):  # what is drawn is not begun with the picture
        return replace(settings, strength=1.0)
    default = 1.0 if fills_masks(pipe) or any(settings.outpaint) else 0.75
    return replace(settings, strength=default if settings.strength is None else settings.strength)


def hires_size(pipe: Model, request: Request) -> Size:
    """Pixels of the second pass."""
    factor = pipe.vae.config.downscale
    sides = latent_size(pipe, request.sampling, request.latents)
    return second_size(Size(*(factor * side for side in sides)), request.sampling.hires_scale, factor)


def latent_size(pipe: Model, sampling: SamplingConfig, latents: Any) -> Size:
    """Height and width in latents: of the pictures, if given, else of the latents, if given."""
    factor = pipe.vae.config.downscale
    four = latents is None or (getattr(latents, "ndim", 0) == 4 and 0 not in latents.shape)
    check("latents", type(latents), four, "must be an array [b, height / 8, width / 8, 4]")
    default = (pipe.native_size // factor,) * 2 if latents is None else latents.shape[1:3]
    for name, pixels in (("height", sampling.height), ("width", sampling.width)):
        fine = pixels is None or (pixels > 0 and pixels % factor == 0)
        check(name, pixels, fine, f"must be a multiple of {factor}")
    wanted = (sampling.height, sampling.width)
    return Size(*(pixels // factor if pixels else side for pixels, side in zip(wanted, default)))
