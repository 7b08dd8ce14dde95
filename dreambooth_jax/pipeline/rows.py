# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What a call asks for -> the fields of ``Rows``: what each picture has of its own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax import rng
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.diffusion.loop import Registers
from dreambooth_jax.pipeline.canvas import Canvas
from dreambooth_jax.pipeline.generate import CanvasLatents, Rows, draw_latents
from dreambooth_jax.pipeline.inpaint import canvas_latents
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.request import Request, given_latents
from dreambooth_jax.pipeline.sizes import latent_size
from dreambooth_jax.pipeline.texts import Texts
from dreambooth_jax.pipeline.upscale import upscales
from dreambooth_jax.pipeline.variation import varied
from dreambooth_jax.size import Size
from dreambooth_jax.trees import Tree


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
        **said_of(pipe, request.sampling, texts.negatives, sides),
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
        negative_prompts: one for each picture, without wildcards.
        latents: height and width.
    """
    fields: dict[str, Any] = {}
    family = pipe.components.family
    if pipe.unet.config.takes_sizes:
        drawn = Size(*(pipe.vae.config.downscale * side for side in latents))
        scores = {"text": sampling.aesthetic_score, "negative": sampling.negative_aesthetic_score}
        told = {side: family.sizes(sampling.told_sizes(drawn), score) for side, score in scores.items()}
        fields["sizes"] = {side: np.asarray([one] * len(negative_prompts), np.float32) for side, one in told.items()}
    silent = pipe.silent(negative_prompts)
    return fields if silent is None else fields | {"silent": silent}


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
