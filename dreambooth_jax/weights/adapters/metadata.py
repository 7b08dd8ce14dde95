# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What files of adapters say of themselves in sd-scripts' words (``ss_...``), which A1111, Forge and galleries show."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.weights.adapters.methods import Module
from dreambooth_jax.weights.modelspec import model_version

_ALGORITHMS = {"dora": "lora", "diff": "full", "oft": "diag-oft"}
"""Names that LyCORIS has for methods, where they are others than ours."""
_WITH_DORA = " with dora"


def base_metadata(
    configs: Mapping[str, Mapping[str, Any]], scheduler_config: Mapping[str, Any], *, family: Family = SD
) -> dict[str, str]:
    """Which model an adapter or a word is for: all that tools need to know of it.

    Args:
        configs: content of each component's ``config.json``.
        scheduler_config: of the ``scheduler_config.json``.
        family: of the model.
    """
    if family.naming.base:
        return {"ss_v2": "False", "ss_base_model_version": family.naming.base}
    version = model_version(configs)
    predicts = "_v" if scheduler_config.get("prediction_type") == "v_prediction" else ""
    return {"ss_v2": str(version == 2), "ss_base_model_version": f"sd_v{version}{predicts}"}


def network_metadata(networks: Mapping[str, Mapping[str, Module]]) -> dict[str, str]:
    """Which method, with which rank and alpha: those that most layers have; those of convolutions besides."""
    modules = {f"{network}/{path}": module for network, layers in networks.items() for path, module in layers.items()}
    method = Counter(module.method for module in modules.values()).most_common(1)[0][0]
    plain = [module for module in modules.values() if not _is_window(module)]
    windows = [module for module in modules.values() if _is_window(module)]
    arguments: dict[str, str] = {}
    if method != "lora":
        plain_method = method.removesuffix(_WITH_DORA)
        arguments["algo"] = _ALGORITHMS.get(plain_method, plain_method)
    if method == "dora" or method.endswith(_WITH_DORA):
        arguments |= {"dora_wd": "True", "wd_on_output": str(_on_output(plain or windows))}
    rank, alpha = _common(plain or windows)
    if plain and windows:
        arguments["conv_dim"], arguments["conv_alpha"] = _common(windows)
    return {
        "ss_network_module": "networks.lora" if method == "lora" else "lycoris.kohya",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": json.dumps(arguments),
    }


def rank_of(module: Module) -> int | None:
    """How many columns its factors have; None where it has none."""
    for name, axis in (("lora_down", -1), ("hada_w1_b", -1), ("lokr_w2_b", -1), ("lokr_w1_b", -1), ("lidb_down", -1)):
        if name in module.tensors:
            return int(module.tensors[name].shape[axis])
    return None


def alpha_of(module: Module) -> float | None:
    """Its alpha; the rank where it says none, so that the products count as they are."""
    alpha = module.tensors.get("alpha", rank_of(module))
    return None if alpha is None else float(alpha)


def _is_window(module: Module) -> bool:
    """Whether the layer looks at more than a point of the picture."""
    return any(tensor.ndim == 4 and tensor.shape[:2] != (1, 1) for tensor in module.tensors.values())


def _on_output(modules: list[Module]) -> bool:
    return any(module.tensors["dora_scale"].shape[-1] != 1 for module in modules)


def _common(modules: list[Module]) -> tuple[str, str]:
    """(rank, alpha) of most of them, as texts: "None" where there is none."""
    ranks, alphas = ([of(module) for module in modules] for of in (rank_of, alpha_of))
    rank, alpha = Counter(ranks).most_common(1)[0][0], Counter(alphas).most_common(1)[0][0]
    return str(rank), "None" if alpha is None else f"{alpha:g}"
