# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The settings of PEFT that diffusers keeps in a file's metadata: ranks and alphas.

    lora_adapter_metadata = {"unet.r": 8, "unet.lora_alpha": 4, "unet.alpha_pattern": {"mid_block.…": 2}, ...}

Where they are missing, alpha is the rank: the products count as they are.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters.dialects import Key
from dreambooth_jax.weights.adapters.methods import Module
from dreambooth_jax.weights.adapters.paths import dotted_name
from dreambooth_jax.weights.json_files import parse_json

NAME = "lora_adapter_metadata"
"""Of the metadata with the settings as JSON."""


def alphas_of(
    networks: Mapping[str, Mapping[str, Module]], keys: Mapping[str, Key], metadata: Mapping[str, str], *, file: Path
) -> dict[str, dict[str, Module]]:
    """The layers of a file with the alpha that its metadata says, where no tensor does.

    Args:
        networks: as they were read.
        keys: the file's names; those of kohya's dialect have their alphas as tensors.
        metadata: of the file.
        file: where that is, for errors.

    Raises:
        InputError: if the settings are broken.
    """
    if NAME not in metadata:
        return {network: dict(layers) for network, layers in networks.items()}
    settings = parse_json(metadata[NAME], what=f"{NAME} of {file}")
    dotted = {(key.network, key.path) for key in keys.values() if key.dialect != "kohya"}

    def told(network: str, path: str, module: Module) -> Module:
        down = module.tensors.get("lora_down")
        if "alpha" in module.tensors or down is None or not down.shape or (network, path) not in dotted:
            return module
        rank = down.shape[-1]
        try:
            alpha = _alpha(settings, network, dotted_name(path), rank=rank)
        except (TypeError, ValueError, AttributeError, re.error) as error:
            raise InputError(f"{NAME} of {file} has no alpha for {network}/{path}: {error}") from error
        return module if alpha is None else Module(module.method, {**module.tensors, "alpha": alpha})

    return {
        network: {path: told(network, path, module) for path, module in layers.items()}
        for network, layers in networks.items()
    }


def _alpha(settings: Mapping[str, Any], network: str, module: str, *, rank: int) -> np.ndarray | None:
    """Alpha of a layer as a tensor of a file has it: what is divided by the rank."""
    patterns = settings.get(f"{network}.alpha_pattern") or {}
    plain = module.removeprefix("text_model.")
    found = [value for key, value in patterns.items() if any(_matches(str(key), name) for name in (module, plain))]
    value = found[0] if found else settings.get(f"{network}.lora_alpha")
    if value is None:
        return None
    stabilised = settings.get(f"{network}.use_rslora") is True
    return np.asarray(float(value) * (math.sqrt(rank) if stabilised else 1), np.float32)


def _matches(key: str, module: str) -> bool:
    """PEFT's patterns are names of modules, or their ends, unless they begin with a circumflex."""
    if len(key) > 500:
        return False
    return module == key.removeprefix("^") or (not key.startswith("^") and module.endswith(f".{key}"))


def settings_of(networks: Mapping[str, Mapping[str, Module]]) -> dict[str, str]:
    """The metadata of a file in PEFT's dialect: how many columns and which alpha each layer has, if any has one."""
    settings: dict[str, Any] = {}
    for network, layers in networks.items():
        names = {path: dotted_name(path).removeprefix("text_model.") for path in layers}
        ranks = {names[path]: int(module.tensors["lora_down"].shape[-1]) for path, module in layers.items()}
        alphas = {
            names[path]: float(module.tensors.get("alpha", module.tensors["lora_down"].shape[-1]))
            for path, module in layers.items()
        }
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        settings |= {
            f"{network}.r": rank,
            f"{network}.lora_alpha": alpha,
            f"{network}.rank_pattern": {name: value for name, value in ranks.items() if value != rank},
            f"{network}.alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
            f"{network}.target_modules": sorted(ranks),
            f"{network}.use_dora": any(module.method == "dora" for module in layers.values()),
        }
    return {NAME: json.dumps(settings, sort_keys=True)}
