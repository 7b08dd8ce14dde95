# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model's folder or hub id -> :class:`Pipeline`, with weights or with shapes in their place."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from dreambooth_jax.pipeline.pipeline import Pipeline
from dreambooth_jax.target import Target
from dreambooth_jax.weights.pretrained import Place, describe_components, load_components
from dreambooth_jax.weights.swapping import with_part

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""The tiny model that ships with the package, and in ``subject/`` five pictures to personalise it with."""


def load_pretrained(
    path_or_hub_id: str | Path,
    revision: str | None = None,
    dtype: DTypeLike | None = None,
    variant: str | None = None,
    place: Place | None = None,
    target: Target | None = None,
    *,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Pipeline:
    """Read a model.

    Args:
        path_or_hub_id: folder in the diffusers layout, a hub id, a single file of Stable Diffusion 1.x, 2.x or XL as
            A1111 and ComfyUI have them, or "embedded", the tiny model of the package.
        revision: the hub's branch, tag or commit.
        dtype: what to compute in; None and "auto" are bfloat16 on TPU and GPU, float32 on CPU.
        variant: weight files to prefer, such as fp16.
        place: puts each leaf onto devices, as in ``load_components``; by default whole on each local one.
        target: devices to compute on; by default all that are here.
        vae: another autoencoder than the model's: as in :func:`with_parts`.
        unet: another denoiser than the model's, such as that of a Lightning or an LCM: as in :func:`with_parts`.
        tokenizer: folder of a single file's tokenizer; by default one beside the file, or in the hub's cache.
        prediction_type: "epsilon", "v_prediction" or "sample", where the model does not say what it predicts, or
            something else.
        param_dtype: what parameters are kept in. In bfloat16 or float16 they take half the memory of float32, which is
            for drawing: training loses what is smaller than their precision.

    Raises:
        InputError: if there is no such model, or it asks for something we don't have.
    """
    target = target or Target.here()
    place = place or _whole(target)
    components = load_components(
        source_of(path_or_hub_id),
        revision=revision,
        variant=variant,
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        dtype=_compute_dtype(dtype, target),
        param_dtype=param_dtype,
        arch=target.arch,
        place=place,
    )
    pipe = Pipeline.from_components(components, target)
    return with_parts(pipe, vae=vae, unet=unet, place=place, param_dtype=param_dtype)


def with_parts(
    pipe: Pipeline,
    *,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    place: Place | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Pipeline:
    """A pipeline with another autoencoder, or another denoiser.

    Args:
        pipe: the pipeline.
        vae: folder of an autoencoder or of a model that has one, in the diffusers layout; a hub id; or a single file,
            of an autoencoder or of a model.
        unet: the same of a denoiser. A single file of one says nothing of its shape: it must be the model's.
        place: puts each leaf onto devices; by default whole on each local one.
        param_dtype: what their parameters are kept in.

    Raises:
        InputError: if there is no such network, or it does not fit.
    """
    place = place or _whole(pipe.target)
    for name, source in (("vae", vae), ("unet", unet)):
        if source is not None:
            components, params = with_part(
                name, pipe.components, source_of(source), place=place, param_dtype=param_dtype
            )
            pipe = replace(pipe, components=components, params={**pipe.params, name: params})
    return pipe


def _whole(target: Target) -> Place:
    whole = NamedSharding(target.mesh, PartitionSpec())
    return lambda name, array: jax.device_put(array, whole)


def describe_pretrained(
    path_or_hub_id: str | Path,
    revision: str | None = None,
    dtype: DTypeLike | None = None,
    *,
    target: Target,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> Pipeline:
    """:func:`load_pretrained` without weights: its parameters are ``jax.ShapeDtypeStruct``, and none are downloaded."""
    components = describe_components(
        source_of(path_or_hub_id),
        revision=revision,
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        dtype=_compute_dtype(dtype, target),
        arch=target.arch,
    )
    for name, other in (("vae", vae), ("unet", unet)):
        if other is not None:
            components, params = with_part(name, components, source_of(other), place=None)
            components = replace(components, params={**components.params, name: params})
    return Pipeline.from_components(components, target)


def source_of(path_or_hub_id: str | Path) -> str | Path:
    """A folder or hub id; the name "embedded" is the folder of the model that ships with the package."""
    return EMBEDDED if path_or_hub_id == "embedded" else path_or_hub_id


def _compute_dtype(dtype: DTypeLike | None, target: Target) -> DTypeLike:
    return target.dtype if dtype is None or (isinstance(dtype, str) and dtype == "auto") else dtype
