# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The autoencoder over large pictures, strip by strip: what a device holds depends on their width, not their height.

Tiles that are decoded alone show seams, because a group norm takes its statistics over the whole picture. So each
layer goes over all strips before the next one begins, with the rows beside a strip that its convolution looks at, and
the norms' statistics are those of the whole map, which lies on the host. The result is that of the whole picture but
for rounding. The middle blocks, in which every position looks at all others, are computed whole: there a map has as
many positions as the latents.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from dreambooth_jax.models.layers import wide
from dreambooth_jax.models.vae import EPSILON, AutoencoderKL
from dreambooth_jax.trees import Tree

Map: TypeAlias = np.ndarray
"""Features [h, w, c] on the host, in the dtype that is computed in."""
ELEMENTS = 2**24
"""Of a strip, halo and all: 64 MB in float32."""


class Norm(NamedTuple):
    """A group norm whose statistics are known, of each channel: (x − mean) factor + bias."""

    mean: Float[np.ndarray, "c"]
    factor: Float[np.ndarray, "c"]
    bias: Float[np.ndarray, "c"]


def decode(vae: AutoencoderKL, params: Tree, latents: Float[np.ndarray, "h w z"], *, rows: int | None = None) -> Map:
    """A picture [H, W, 3], in [-1, 1] but for overshoot, from raw latents, in at least float32.

    Args:
        vae: the module.
        params: of the autoencoder.
        latents: of one picture.
        rows: of a strip; by default as many as :data:`ELEMENTS` allow.
    """
    groups, decoder = vae.config.norm_num_groups, params["decoder"]
    x = np.asarray(_whole(vae, "decode_begin", params, jnp.asarray(latents)[None])[0])
    for block in _numbered(decoder, "up_blocks"):
        for resnet in _numbered(block, "resnets"):
            x = _resnet(x, resnet, groups, rows)
        for upsampler in _numbered(block, "upsamplers"):
            x = _convolved(x, upsampler["conv"], rows=rows, twice=True)
    norm = _norm(x, decoder["conv_norm_out"], groups)
    return _convolved(x, decoder["conv_out"], rows=rows, norm=norm).astype(wide(vae.dtype))


def encode(
    vae: AutoencoderKL, params: Tree, image: Float[np.ndarray, "H W c"], *, rows: int | None = None
) -> tuple[Float[np.ndarray, "h w z"], Float[np.ndarray, "h w z"]]:
    """Mean and log variance of the raw latents of a picture in [-1, 1]; arguments as of :func:`decode`."""
    groups, encoder = vae.config.norm_num_groups, params["encoder"]
    x = _convolved(np.asarray(image).astype(vae.encoding_dtype), encoder["conv_in"], rows=rows)
    for block in _numbered(encoder, "down_blocks"):
        for resnet in _numbered(block, "resnets"):
            x = _resnet(x, resnet, groups, rows)
        for downsampler in _numbered(block, "downsamplers"):
            x = _convolved(x, downsampler["conv"], rows=rows, half=True)
    mean, logvar = _whole(vae, "encode_end", params, jnp.asarray(x)[None])
    return np.asarray(mean[0]), np.asarray(logvar[0])


@partial(jax.jit, static_argnums=(0, 1))
def _whole(vae: nn.Module, method: str, params: Tree, x: Array) -> Any:
    return vae.apply({"params": params}, x, method=method)


def _numbered(params: Tree, name: str) -> list[Tree]:
    """``name_0``, ``name_1``, ... of a tree."""
    count = sum(key.rpartition("_")[0] == name for key in params)
    return [params[f"{name}_{i}"] for i in range(count)]


def _resnet(x: Map, params: Tree, groups: int, rows: int | None) -> Map:
    """A residual block without a timestep, as ``models/resnet.py`` has it."""
    h = _convolved(x, params["conv1"], rows=rows, norm=_norm(x, params["norm1"], groups))
    h = _convolved(h, params["conv2"], rows=rows, norm=_norm(h, params["norm2"], groups))
    h += _convolved(x, params["conv_shortcut"], rows=rows) if "conv_shortcut" in params else x
    return h


def _norm(x: Map, params: Mapping[str, Any], groups: int) -> Norm:
    """Statistics over all positions and the channels of a group, summed row by row in float64."""
    height, width, channels = x.shape
    count = height * width * channels // groups

    def over_groups(of_row: Any) -> np.ndarray:
        total = np.zeros(channels)
        for row in x:
            total += of_row(row.astype(np.float64)).sum(0)
        return np.repeat(total.reshape(groups, -1).sum(1) / count, channels // groups)

    mean = over_groups(lambda row: row)
    variance = over_groups(lambda row: np.square(row - mean))
    scale, bias = (np.asarray(params[name], np.float64) for name in ("scale", "bias"))
    return Norm(*(part.astype(wide(x.dtype)) for part in (mean, scale / np.sqrt(variance + EPSILON), bias)))


def _convolved(
    x: Map,
    params: Mapping[str, Any],
    *,
    rows: int | None,
    norm: Norm | None = None,
    twice: bool = False,
    half: bool = False,
) -> Map:
    """A convolution over a map, strip by strip.

    Args:
        x: the map.
        params: kernel and bias.
        rows: of the result, in a strip.
        norm: what x goes through first, and then SiLU.
        twice: double the size first, each position four times.
        half: with a stride of two, padded below and at the right, as the encoder halves sizes.
    """
    kernel, bias = (jnp.asarray(params[name], x.dtype) for name in ("kernel", "bias"))
    size, (high, wide_, channels) = kernel.shape[0], x.shape
    times = 2 if twice else 1
    height, width = (side // 2 if half else side * times for side in (high, wide_))
    rows = min(height, rows or max(1, ELEMENTS // (times * wide_ * max(channels, kernel.shape[-1]) * (1 + half))))
    result = np.empty((height, width, kernel.shape[-1]), x.dtype)
    before = 0 if half else size // 2
    for first in range(0, height, rows):
        last = min(first + rows, height)
        start, count = (2 * first, 2 * rows + 1) if half else (first - before, rows + 2 * before)
        wanted = np.arange(start, start + count)
        inside = (wanted >= 0) & (wanted < times * high)
        strip = x[np.clip(wanted // times, 0, high - 1)]
        made = _strip(kernel, bias, norm, strip, inside, twice=twice, half=half)
        result[first:last] = np.asarray(made)[: last - first]
    return result


@partial(jax.jit, static_argnames=("twice", "half"))
def _strip(
    kernel: Float[Array, "k k c d"],
    bias: Float[Array, "d"],
    norm: Norm | None,
    strip: Any,
    inside: Any,
    *,
    twice: bool,
    half: bool,
) -> Float[Array, "r w d"]:
    """Rows of a convolution's result; of the strip's rows, those that are not inside the map are zero to it."""
    dtype = kernel.dtype
    h = strip
    if norm is not None:
        mean, factor, offset = (part[None, None] for part in norm)
        h = jax.nn.silu(((h.astype(mean.dtype) - mean) * factor + offset).astype(dtype))
    h = jnp.where(inside[:, None, None], h, 0)
    h = h.repeat(2, axis=1) if twice else h
    sides = (0, 1) if half else (kernel.shape[0] // 2,) * 2
    convolved = jax.lax.conv_general_dilated(
        h[None],
        kernel,
        window_strides=(2, 2) if half else (1, 1),
        padding=((0, 0), sides),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return convolved[0] + bias[None, None]
