# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model with another autoencoder, or another denoiser, than its own."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.trees import Tree, unflatten
from dreambooth_jax.weights.identity import PARTS, fingerprint_with, settings_of
from dreambooth_jax.weights.modules import parameter_shapes
from dreambooth_jax.weights.pretrained import Components, Place, load_leaves, match


def with_part(
    name: str,
    components: Components,
    source: str | Path,
    *,
    place: Place | None,
    param_dtype: DTypeLike = jnp.float32,
) -> tuple[Components, Tree]:
    """Components with another network in the place of one, and its parameters.

    What a single file of an autoencoder of the original code does not say, by how much latents are scaled, is as in the
    model; a single file of a denoiser says nothing of itself, and must be what the model's own is.

    Args:
        name: of the component, "vae" or "unet".
        components: of the model; its fingerprint becomes another.
        source: folder of such a network or of a model that has one, a hub id, or a single file.
        place: puts each leaf onto devices, by names such as vae/encoder/conv_in/kernel; None makes shapes of them, and
            weights need not be there.
        param_dtype: what parameters are cast to.

    Raises:
        InputError: if there is no such network, it is broken, or does not fit the others.
    """
    part, own = PARTS[name], components.modules[name]
    found = part.open(source, weights=place is not None)
    config = settings_of(part, found, own=components.configs[name], read=own.config)
    read = part.kind.config_cls.from_json(config, file=str(found.file))
    module = part.kind.build(read, dtype=own.dtype, arch=own.arch)
    modules = {**components.modules, name: module}
    for misfit in components.family.misfits({name: one.config for name, one in modules.items()}):
        raise InputError(f"{name} = {source}: {misfit}")
    changed = replace(components, modules=modules, configs={**components.configs, name: config}, as_found=False)
    shapes = parameter_shapes(part.kind, module)
    if place is None:
        return changed, unflatten(shapes)
    table = found.read(shapes)
    leaves = match(part.kind.key_rules, expected=shapes, table=table)
    told = fingerprint_with(components.fingerprint, part, found, read)
    return replace(changed, fingerprint=told), load_leaves(f"{name}/", leaves, param_dtype, place, file=table.file)
