# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What one call of a pipeline does: request -> rows and program -> output.

What a kind of input needs (texts, noise, pictures) is made into fields of ``Rows`` here; the program that reads them is
:mod:`~dreambooth_jax.pipeline.generate`.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreambooth_jax import rng
from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.diffusion.loop import Registers
from dreambooth_jax.diffusion.samplers import build_table
from dreambooth_jax.diffusion.schedules.strength import Part, part_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.pipeline.arguments import check
from dreambooth_jax.pipeline.canvas import Canvas
from dreambooth_jax.pipeline.controls import guided_by
from dreambooth_jax.pipeline.generate import CanvasLatents, Networks, Rows, Shared, draw_latents
from dreambooth_jax.pipeline.hires import enlarged, second_request
from dreambooth_jax.pipeline.img2img import decoded
from dreambooth_jax.pipeline.inpaint import canvas_latents, check_channels
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.request import Request, given_latents
from dreambooth_jax.pipeline.run import OnStep, Run
from dreambooth_jax.pipeline.sizes import hires_size, latent_size, placed
from dreambooth_jax.pipeline.texts import Texts, read_texts
from dreambooth_jax.pipeline.upscale import upscales
from dreambooth_jax.pipeline.variation import varied
from dreambooth_jax.size import Size
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
    final, images = one_pass(pipe, request, params, canvas=canvas, decode=decode, on_step=on_step)
    if request.sampling.hires_scale > 1:
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
    static, shared = program_of(pipe, settings, None if canvas is None and start is None else part_run(settings))
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
    static, shared, rows, params = guided_by(request.controls, (static, shared, rows, params), factor=factor)
    run = Run(mesh=pipe.target.mesh, static=static, shared=shared, noise=noise, lengths=texts.lengths, on_step=on_step)
    final, images = run(params, rows)
    return final, decoded(pipe, params, final) if settings.tiled and decode else images


def program_of(pipe: Model, sampling: SamplingConfig, part: Part | None = None) -> tuple[tuple[Networks, bool], Shared]:
    """What is compiled anew where it differs, and what is given to it for all pictures.

    Args:
        pipe: the model.
        sampling: the settings.
        part: which steps are run; by default all of ``sampling.steps``.
    """
    part = part or Part(sampling.steps, 0)
    table = build_table(
        sampling.sampler,
        pipe.schedule,
        part.steps,
        start=part.start,
        spacing=sampling.schedule,
        profile=sampling.profile,
        **sampling.of_sampler,
    )
    static = Networks(pipe.unet, pipe.vae, _conditioner(pipe, sampling.clip_skip)), bool(sampling.guidance_scale > 1)
    return static, Shared(
        table,
        guidance_scale=np.asarray(sampling.guidance_scale),
        guidance_rescale=np.asarray(sampling.guidance_rescale),
        first=np.zeros((), np.int32),
        last=table.length,
        noise_counts=np.asarray(sampling.noise != "jax"),
        restore_mean=np.asarray(sampling.emphasis == "original"),
    )


def _conditioner(pipe: Model, clip_skip: int) -> Conditioner:
    """The pipeline's, reading the layer of its text encoders that is asked for."""
    encoders = [pipe.components.modules[name] for name in pipe.components.family.text_encoders]
    layers = min(encoder.config.num_hidden_layers for encoder in encoders)
    check("clip_skip", clip_skip, clip_skip <= layers, f"must be at most {layers}, the text encoder's layers")
    return pipe.conditioner if clip_skip == 1 else pipe.conditioner.clone(clip_skip=clip_skip)


def part_run(settings: DrawingConfig) -> Part:
    """Which steps of a run that starts from a picture are run."""
    strength = 1.0 if settings.strength is None else settings.strength
    return part_of(settings.steps, strength, profile=settings.profile, fixed=settings.fixed_steps)


def rows_of(
    pipe: Model,
    params: Tree,
    request: Request,
    texts: Texts,
    tool: ToolNoise | None = None,
    canvas: Canvas | None = None,
) -> Rows:
    """What each picture of a request has of its own.

    Args:
        pipe: the model.
        params: with those of the autoencoder.
        request: what is asked for.
        texts: what its prompts say.
        canvas: what is drawn on.
        tool: the noise of another tool, in the place of ours.
    """
    sides = latent_size(pipe, request.sampling, request.latents)
    shape = (len(request.prompts), *sides, pipe.latent_channels)
    keys, drawn = draw_latents(np.asarray([seed % 2**32 for seed in request.seeds], np.uint32), shape=shape)
    start = tool.first if tool and request.latents is None else request.latents
    latents = drawn if start is None else given_latents(start, shape)
    latents = varied(latents, request) if request.variations and request.latents is None else latents
    noise = jax.device_put(np.zeros(shape, latents.dtype))  # jnp.zeros would be a program of its own
    return Rows(
        **texts.fields,
        **said_of(pipe, request.sampling, request.negative_prompts, sides),
        latents=latents,
        keys=keys,
        registers=Registers(*[noise] * 5),
        noise=noise,
        canvas=canvas_latents(pipe, params, canvas, request.sampling, keys) if canvas else CanvasLatents(),
    )


def said_of(pipe: Model, sampling: DrawingConfig, negative_prompts: Sequence[str], latents: Size) -> dict[str, Any]:
    """Fields of ``Rows`` of models that know of sizes, and of those that were trained with texts of zeros.

    Args:
        pipe: the model.
        sampling: the settings.
        negative_prompts: one for each picture.
        latents: height and width.
    """
    fields: dict[str, Any] = {}
    family = pipe.components.family
    if pipe.unet.config.takes_sizes:
        drawn = Size(*(pipe.vae.config.downscale * side for side in latents))
        scores = {"text": sampling.aesthetic_score, "negative": sampling.negative_aesthetic_score}
        told = {side: family.sizes(sampling.told_sizes(drawn), score) for side, score in scores.items()}
        fields["sizes"] = {side: np.asarray([one] * len(negative_prompts), np.float32) for side, one in told.items()}
    if pipe.components.index.get("force_zeros_for_empty_prompt"):
        fields["silent"] = np.asarray([not text for text in negative_prompts])
    return fields


def noise_of(pipe: Model, request: Request) -> ToolNoise | None:
    """The noise of another tool, if a request asks for it."""
    sampling = request.sampling
    if sampling.noise == "jax":
        return None
    size = (*latent_size(pipe, sampling, request.latents), pipe.latent_channels)
    return ToolNoise(
        sampling.noise, request.seeds, size, index=sampling.noise_index, seed_delta=sampling.noise_seed_delta
    )


def shapes_of_rows(pipe: Model, count: int, sampling: DrawingConfig) -> Rows:
    """Shapes of what :func:`rows_of` makes of ``count`` prompts; nothing is computed."""
    sides = latent_size(pipe, sampling, None)

    def rows() -> Rows:
        ids = {name: jnp.zeros((count, one.max_length), jnp.int32) for name, one in pipe.tokenizers.items()}
        latents = jnp.zeros((count, *sides, pipe.latent_channels))
        more = pipe.unet.config.in_channels - pipe.latent_channels
        return Rows(
            ids=ids,
            negative_ids=ids,
            **jax.tree.map(jnp.asarray, said_of(pipe, sampling, [""] * count, sides)),
            latents=latents,
            keys=jnp.stack([rng.root_key(0)] * count),
            registers=Registers(*[latents] * 5),
            noise=latents,
            canvas=CanvasLatents(
                channels=jnp.zeros((count, *sides, more)) if more else None,
                labels=jnp.zeros(count, jnp.int32) if upscales(pipe) else None,
            ),
        )

    return jax.eval_shape(rows)


def finite(drawn: np.ndarray) -> np.ndarray:
    """Latents or pictures as they are.

    Raises:
        InputError: if the model drew what is not finite.
    """
    if not np.isfinite(drawn).all():
        raise InputError("the model draws values that are not finite: are its weights damaged?")
    return drawn
