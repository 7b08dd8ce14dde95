# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What one call of a pipeline does: request -> rows and program -> output.

What a kind of input needs (texts, noise, pictures) is made into fields of ``Rows``; the program that reads them is
:mod:`~dreambooth_jax.pipeline.generate`.
"""

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Array, Float

from dreambooth_jax.diffusion.schedules.strength import Part
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.arguments import check
from dreambooth_jax.pipeline.canvas import Canvas
from dreambooth_jax.pipeline.controls import guided_by
from dreambooth_jax.pipeline.hires import enlarged, second_request
from dreambooth_jax.pipeline.img2img import decoded
from dreambooth_jax.pipeline.inpaint import check_channels
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.program import part_run, program_of
from dreambooth_jax.pipeline.refiner import handed_over, relay_of
from dreambooth_jax.pipeline.request import Request
from dreambooth_jax.pipeline.rows import noise_of, rows_of
from dreambooth_jax.pipeline.run import Leg, OnStep, Run
from dreambooth_jax.pipeline.sizes import hires_size, placed
from dreambooth_jax.pipeline.texts import read_texts
from dreambooth_jax.trees import Tree

Output: TypeAlias = Literal["uint8", "float32", "latents"]


def draw(
    pipe: Model, request: Request, params: Tree, *, output: Output = "uint8", on_step: OnStep | None = None
) -> np.ndarray:
    """What a request asks for: the arguments and the result are those of a call of the pipeline."""
    check("output", output, output in get_args(Output), f"choose one of {', '.join(get_args(Output))}")
    lacking = [name for name in pipe.components.family.components if name not in params]
    check("params", lacking, not lacking, "are missing; give those of the whole model")
    request, canvas = placed(pipe, request)
    check_channels(pipe, canvas)
    decode = output != "latents" or request.sampling.hires_scale > 1
    larger = request.sampling.hires_scale > 1
    first = replace(request, refiner=None) if larger else request  # details are the last pass's
    final, images = one_pass(pipe, first, params, canvas=canvas, decode=decode, on_step=on_step)
    if larger:
        check("hires_scale", request.sampling.hires_scale, not (canvas and canvas.masks), "not together with a mask")
        passed, request = request.sampling.steps, second_request(request, hires_size(pipe, request))
        start = enlarged(pipe, params, request, final, images)
        final, images = one_pass(pipe, request, params, start=start, passed=passed, on_step=on_step)
    if output == "latents":
        return finite(final)
    images = finite(canvas.finish(images) if canvas else images)
    return images if output == "float32" else np.rint(255 * images).astype(np.uint8)


def one_pass(
    pipe: Model,
    request: Request,
    params: Tree,
    *,
    canvas: Canvas | None = None,
    start: Float[Array, "b h w c"] | None = None,
    passed: int | None = None,
    decode: bool = True,
    on_step: OnStep | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(final latents, pictures in [0, 1]) of a run from noise, from a canvas, or from latents ``start``.

    ``passed`` is the number of steps of the pass that made those. Without ``decode`` the pictures have no pixels.
    """
    settings = request.sampling
    part = Part(settings.steps, 0) if canvas is None and start is None else part_run(settings)
    static, shared = program_of(pipe, settings, part)
    relay = relay_of(pipe, request, shared.table, part)
    shared = shared._replace(table=relay.table)
    if settings.tiled or not decode:
        static = static[0]._replace(vae=None), static[1]
    noise = noise_of(pipe, request)
    texts = read_texts(
        request, pipe.tokenizers, steps=np.asarray(shared.table.rows.step), with_guidance=static[1], passed=passed
    )
    rows = rows_of(pipe, params, request, texts, noise, canvas)
    if start is not None:
        rows = rows._replace(canvas=rows.canvas._replace(start=start))
    factor = pipe.vae.config.downscale
    program = guided_by(request.controls, (static, shared, rows, params), factor=factor)
    legs = [Leg(*program, lengths=texts.lengths, until=relay.row)]
    if request.refiner is not None:
        legs.append(handed_over(request.refiner, request, (static, shared, rows, params), relay, passed=passed))
    final, images = Run(mesh=pipe.target.mesh, noise=noise, on_step=on_step)(legs)
    return final, decoded(pipe, params, final) if settings.tiled and decode else images


def finite(drawn: np.ndarray) -> np.ndarray:
    """Latents or pictures as they are.

    Raises:
        InputError: if the model drew what is not finite.
    """
    if not np.isfinite(drawn).all():
        raise InputError("the model draws values that are not finite: are its weights damaged?")
    return drawn
