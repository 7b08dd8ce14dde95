# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What config.json says -> modules, and the names and shapes of their parameters."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
from flax import linen as nn

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import ComponentKind
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.models.model_config import ModelConfig
from dreambooth_jax.trees import flatten


def build_modules(
    configs: Mapping[str, Mapping[str, Any]], family: Family = SD, *, where: str = "", **how: Any
) -> dict[str, nn.Module]:
    """Each component's module from its config.json.

    Args:
        configs: the content of the files, by component.
        family: which components there are.
        where: the folder that the files are in, for errors.
        **how: dtype, remat and arch of the modules that have them.

    Raises:
        InputError: if a configuration asks for something we don't have, or they do not fit each other.
    """
    prefix = f"{where}/" if where else ""
    read = {
        name: kind.config_cls.from_json(configs[name], file=f"{prefix}{name}/config.json")
        for name, kind in family.components.items()
    }
    for misfit in family.misfits(read):
        raise InputError(f"{where or 'the model'}: {misfit}")
    return {name: kind.build(read[name], **how) for name, kind in family.components.items()}


def parameter_shapes(kind: ComponentKind, module: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Name -> shape of a module's parameters, without computing or allocating any."""
    return dict(_shapes(kind, module.config))  # they depend on nothing else


@cache
def _shapes(kind: ComponentKind, config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(kind.build(config).init, key, *kind.dummy_inputs(config))
    return flatten(variables["params"])
