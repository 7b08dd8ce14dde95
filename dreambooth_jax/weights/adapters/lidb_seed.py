# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The seed of LiDB's random bases: one for all layers of a file, in its metadata, where it takes a few bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters.methods import Module

SEED = "lidb_seed"
NAME = f"dreambooth_jax.{SEED}"
"""Of the metadata."""


def seed_metadata(networks: Mapping[str, Mapping[str, Module]]) -> dict[str, str]:
    """The metadata of a file that has layers of LiDB; nothing for others.

    Raises:
        InputError: if they have several seeds.
    """
    modules = [module for layers in networks.values() for module in layers.values() if SEED in module.tensors]
    seeds = sorted({int(module.tensors[SEED]) for module in modules})
    if len(seeds) > 1:
        raise InputError(f"layers of lidb have the seeds {seeds[0]} and {seeds[1]}: a file has one for all")
    return {NAME: str(seeds[0])} if seeds else {}


def with_seed(tensors: Mapping[str, Any], metadata: Mapping[str, str], *, file: Path) -> dict[str, Any]:
    """The tensors of a layer, with the seed of the file where it is one of LiDB.

    Raises:
        InputError: if the file does not say it.
    """
    if "lidb_down" not in tensors:
        return dict(tensors)
    said = metadata.get(NAME, "")
    if not said.isdecimal() or not said.isascii() or int(said) >= 2**32:
        raise InputError(f"{file} holds LiDB, but its metadata has no {NAME} that could be one: {said!a:.40}")
    return {**tensors, SEED: np.asarray(int(said), np.uint32)}
