# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Variations of a picture: its noise, turned a part of the way towards another seed's.

    slerp(a, b, v) = a sin((1 − v) ω) / sin ω  +  b sin(v ω) / sin ω,    cos ω = ⟨a, b⟩ / (|a| |b|)

On the way the noise is as long as noise is, where a straight line would be shorter, and so is still nearly normal.
Noise that points almost the same way (cos ω > 0.9995) is mixed linearly.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreambooth_jax.pipeline.generate import draw_latents
from dreambooth_jax.pipeline.noise import ToolNoise
from dreambooth_jax.pipeline.request import Request

PARALLEL = 0.9995
WHOLE, COLUMNS = (1, 2, 3), (1,)
"""Which axes of noise [b, h, w, c] make a vector: all, or the height alone, as in A1111."""


def varied(noise: Float[Array, "b h w c"], request: Request) -> Float[Array, "b h w c"]:
    """Noise of the seed that is varied -> noise of its variations, one for each seed of a request."""
    settings, (_, *size) = request.sampling, noise.shape
    if settings.noise == "jax":
        _, other = draw_latents(np.asarray(request.variations, np.uint32), shape=noise.shape)
    else:
        tool = ToolNoise(
            settings.noise,
            request.variations or [],
            (size[0], size[1], size[2]),
            index=settings.noise_index,
            seed_delta=settings.noise_seed_delta,
        )
        other = jnp.asarray(tool.first, noise.dtype)
    axes = COLUMNS if settings.profile == "a1111" else WHOLE
    return slerp(noise, other, jnp.asarray(settings.variation_strength, noise.dtype), axes=axes)


@partial(jax.jit, static_argnames="axes")
def slerp(
    low: Float[Array, "b h w c"], high: Float[Array, "b h w c"], part: Float[Array, ""], *, axes: Sequence[int]
) -> Float[Array, "b h w c"]:
    """A part of the way along a great circle.

    Args:
        low: at 0.
        high: at 1.
        part: v.
        axes: which make a vector.
    """

    def length(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))

    cosine = jnp.sum(low * high, axis=axes, keepdims=True) / (length(low) * length(high))
    omega = jnp.arccos(jnp.clip(cosine, -1, 1))
    parallel = jnp.mean(cosine, axis=WHOLE, keepdims=True) > PARALLEL
    sine = jnp.where(parallel, 1, jnp.sin(omega))
    curved = jnp.sin((1 - part) * omega) / sine * low + jnp.sin(part * omega) / sine * high
    return jnp.where(parallel, (1 - part) * low + part * high, curved)
