# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model with another autoencoder than its own."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import VAE
from dreambooth_jax.trees import Tree, unflatten
from dreambooth_jax.weights.identity import fingerprint_with
from dreambooth_jax.weights.modules import parameter_shapes
from dreambooth_jax.weights.pretrained import Components, Place, load_leaves, match
from dreambooth_jax.weights.single_module import open_module


def with_vae(
    components: Components, source: str | Path, *, place: Place | None, param_dtype: DTypeLike = jnp.float32
) -> tuple[Components, Tree]:
    """Components with another autoencoder, and its parameters.

    Of a single file of the original code, which does not say by how much latents are scaled, that is as in the model.

    Args:
        components: of the model; its fingerprint becomes another.
        source: folder of an autoencoder or of a model that has one, a hub id, or a single file.
        place: puts each leaf onto devices, by names such as vae/encoder/conv_in/kernel; None makes shapes of them, and
            weights need not be there.
        param_dtype: what parameters are cast to.

    Raises:
        InputError: if there is no such autoencoder, it is broken, or does not fit the denoiser.
    """
    found = open_module(source, VAE, component="vae", weights=place is not None)
    own = components.modules["vae"]
    config = dict(found.config)
    if found.is_original:
        config["scaling_factor"] = own.config.scaling_factor
    module = VAE.build(VAE.config_cls.from_json(config, file=str(found.file)), dtype=own.dtype, arch=own.arch)
    modules = {**components.modules, "vae": module}
    for misfit in components.family.misfits({name: one.config for name, one in modules.items()}):
        raise InputError(f"vae = {source}: {misfit}")
    changed = replace(components, modules=modules, configs={**components.configs, "vae": config}, as_found=False)
    shapes = parameter_shapes(VAE, module)
    if place is None:
        return changed, unflatten(shapes)
    table = found.read(shapes)
    leaves = match(VAE.key_rules, expected=shapes, table=table)
    told = fingerprint_with(components.fingerprint, found, scale=module.config.scaling_factor)
    return replace(changed, fingerprint=told), load_leaves("vae/", leaves, param_dtype, place, file=table.file)
