# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A folder in the diffusers layout, or a hub id -> modules and parameters: of a whole model, or of one network.

Reading goes names -> shapes -> bytes: every component's table of leaves is compared with what its module has
(``jax.eval_shape``) before the first byte is read, then leaf by leaf is read, turned, cast and placed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import ComponentKind, KeyRules
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.models.layers import Remat
from dreambooth_jax.target import CPU, Arch
from dreambooth_jax.trees import Tree, check_shapes, flatten, unflatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, turned
from dreambooth_jax.weights.fingerprint import Identity
from dreambooth_jax.weights.modules import build_modules, parameter_shapes
from dreambooth_jax.weights.single_module import open_module
from dreambooth_jax.weights.sources import Source, Table, open_source

Place = Callable[[str, np.ndarray], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Components(Identity):
    """What a model folder holds."""

    family: Family = SD
    modules: Mapping[str, Any]
    """Each component's Flax module."""
    params: Tree
    """{"text_encoder": ..., "unet": ..., "vae": ...}"""
    configs: Mapping[str, Mapping[str, Any]]
    """Each component's config.json as it is in the folder."""
    scheduler_config: Mapping[str, Any]
    """The content of scheduler_config.json, as diffusers' pipelines use it."""
    tokenizers: Mapping[str, Path]
    """Text encoder -> folder of its tokenizer."""
    index: Mapping[str, Any] = field(default_factory=dict)
    """What else model_index.json says, or its family's defaults."""

    @property
    def conditioner(self) -> Conditioner:
        """The text encoders, as what they are to the denoiser."""
        encoders = tuple((name, self.modules[name]) for name in self.family.text_encoders)
        return Conditioner(encoders, self.family.condition)


def load_components(
    source: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    remat: Remat = "nothing",
    arch: Arch = CPU,
    place: Place = lambda name, array: jax.device_put(array),
) -> Components:
    """Read a model.

    Args:
        source: folder in the diffusers layout, a hub id, or a single file.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.
        tokenizer: folder of a single file's tokenizer; by default one beside the file, or in the hub's cache.
        prediction_type: what the denoiser predicts, where it is not what the model says.
        dtype: what the modules compute in.
        param_dtype: what parameters are cast to.
        remat: what the backward pass computes again.
        arch: what the modules compute on.
        place: called with each leaf's name, such as unet/conv_in/kernel, and its array, which is the callee's to keep;
            puts it onto devices. By default the default device.

    Raises:
        InputError: if there is no such model, a file is missing or broken, the configuration asks for something we
            don't have, names or shapes of the weights differ from it, or a value is not finite.
    """
    found = open_source(
        source, revision=revision, variant=variant, tokenizer=tokenizer, prediction_type=prediction_type
    )
    components = _described(found, dtype=dtype, remat=remat, arch=arch)
    tables, matched = {}, {}
    for name, kind in found.family.components.items():
        shapes = flatten(components.params[name])
        tables[name] = found.read(name, shapes)
        matched[name] = match(kind.key_rules, expected=shapes, table=tables[name])
    params = {
        name: load_leaves(f"{name}/", leaves, param_dtype, place, file=tables[name].file)
        for name, leaves in matched.items()
    }
    return replace(components, params=params, fingerprint=found.fingerprint())


def describe_components(
    source: str | Path,
    *,
    revision: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    dtype: DTypeLike = jnp.float32,
    arch: Arch = CPU,
) -> Components:
    """What :func:`load_components` gives, with float32 shapes for parameters; weights of folders need not be there.

    Raises:
        InputError: if there is no such model, or its configuration is missing or asks for something we don't have.
    """
    found = open_source(source, revision=revision, tokenizer=tokenizer, prediction_type=prediction_type, weights=False)
    return _described(found, dtype=dtype, arch=arch)


def load_module(
    source: str | Path,
    kind: ComponentKind,
    place: Place = lambda name, array: jax.device_put(array),
    *,
    revision: str | None = None,
    variant: str | None = None,
    param_dtype: DTypeLike = jnp.float32,
    **how: Any,
) -> tuple[nn.Module, Tree]:
    """Read one network: another autoencoder, say, or a component of a model by its folder (``MODEL/vae``).

    Args:
        source: folder with a ``config.json`` and weights in diffusers' or transformers' form, a hub id, or a single
            file: with a ``config.json`` beside it, or, of an autoencoder, in the original layout.
        kind: of network.
        place: as in :func:`load_components`; leaves are named as in the module, such as conv_in/kernel.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.
        param_dtype: what parameters are cast to.
        **how: dtype, remat and arch of a module that has them.

    Returns:
        The module and its parameters.

    Raises:
        InputError: as :func:`load_components`.
    """
    found = open_module(source, kind, revision=revision, variant=variant)
    module = kind.build(kind.config_cls.from_json(found.config, file=str(found.file)), **how)
    shapes = parameter_shapes(kind, module)
    table = found.read(shapes)
    leaves = match(kind.key_rules, expected=shapes, table=table)
    return module, load_leaves("", leaves, param_dtype, place, file=table.file)


def _described(found: Source, **how: Any) -> Components:
    modules = build_modules(found.configs, found.family, where=str(found.path), **how)
    kinds = found.family.components
    return Components(
        family=found.family,
        modules=modules,
        params={name: unflatten(parameter_shapes(kind, modules[name])) for name, kind in kinds.items()},
        configs=found.configs,
        scheduler_config=found.scheduler_config,
        folder=found.path,
        tokenizers=found.tokenizers,
        index=found.index,
        as_found=found.as_found,
    )


def match(rules: KeyRules, *, expected: Mapping[str, jax.ShapeDtypeStruct], table: Table) -> dict[str, Leaf]:
    """Our name -> leaf of the file, in our layout.

    Raises:
        InputError: with all that is missing, extra or of another shape.
    """
    ours = {names.key(rules, name): name for name in expected}
    found: dict[str, Leaf] = {}
    for source, leaf in table.leaves.items():
        key = names.key(rules, source)
        name = ours.get(key, key)
        if name in found:
            name = source  # the file has it under two names: report the second as extra
        turn = partial(names.to_ours, name, source=source, ndim=len(expected.get(name, leaf).shape))
        found[name] = turned(leaf, turn)
    check_shapes(
        expected={name: leaf.shape for name, leaf in expected.items()},
        found={name: leaf.shape for name, leaf in found.items()},
        source=str(table.file),
        settings=table.settings,
        ignore=rules.ignored,
    )
    return {name: found[name] for name in expected}


def load_leaves(prefix: str, leaves: Mapping[str, Leaf], dtype: DTypeLike, place: Place, *, file: Path) -> Tree:
    """Read what :func:`match` found, leaf by leaf: to a dtype, and placed.

    Raises:
        InputError: for numbers that are not real, or not finite, or if all of them are zero, as in a file whose room
            was made before its download failed.
    """
    is_empty = True

    def load(name: str, leaf: Leaf) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(
                f"{file}: {prefix}{name} is {leaf.dtype.name}, not real: take weights that are not quantised"
            )
        nonlocal is_empty
        array = np.asarray(leaf.load(), dtype=dtype, order="C")
        is_empty = is_empty and not array.any()
        if not np.isfinite(array).all():
            bad = np.count_nonzero(~np.isfinite(array))
            raise InputError(
                f"{file}: {prefix}{name} has {bad} values that are not finite: take another copy or variant"
            )
        return place(f"{prefix}{name}", array)

    tree = unflatten({name: load(name, leaf) for name, leaf in leaves.items()})
    if is_empty:
        of = f" of {prefix.rstrip('/')}" if prefix else ""
        raise InputError(f"{file}: all weights{of} are zero, as where a download failed: take another copy")
    return tree
