# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The layers of an adapter's file as they are, whole or not, sound or not; and how much each changes."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dreambooth_jax.weights.adapters.dialects import Key
from dreambooth_jax.weights.adapters.metadata import alpha_of, rank_of
from dreambooth_jax.weights.adapters.methods import Module, odd_shape, unmet_ranks
from dreambooth_jax.weights.checking.report import NetworkReport

UNKNOWN = "unknown"
"""The method of a layer whose tensors are none that is known, or not all of them."""
_ON_THE_MODEL = ("dora", "ia3", "oft", "boft", "oft_diag", "svdiff", "lidb", "glora")
"""Methods whose change depends on the kernel that they find."""


class Layer(NamedTuple):
    """What a file holds of a layer.

    Attributes:
        network: whose it is.
        path: of it.
        dialect: of its names.
        names: of its tensors in the file.
        module: what becomes of it; its method may be ``UNKNOWN``.
        scaled_by_metadata: whether its alpha stands in the metadata alone, and is not the rank.
        unusable: why no tool can use it.
        spoilt: why what any tool draws with it is not what is meant.
    """

    network: str
    path: str
    dialect: str
    names: tuple[str, ...]
    module: Module
    scaled_by_metadata: bool = False
    unusable: str | None = None
    spoilt: str | None = None


def network_reports(layers: list[Layer]) -> tuple[NetworkReport, ...]:
    """What is changed, network by network."""
    return tuple(
        _report(name, [layer for layer in layers if layer.network == name])
        for name in dict.fromkeys(layer.network for layer in layers)
    )


def _report(network: str, layers: list[Layer]) -> NetworkReport:
    modules = [layer.module for layer in layers]
    sound = [module for module in modules if module.method != UNKNOWN]
    sizes = {layer.path: size for layer in layers if (size := change_of(layer.module)) is not None}
    largest = max(sizes.items(), key=lambda item: item[1], default=None)
    return NetworkReport(
        network=network,
        layers=len(layers),
        methods=dict(Counter(module.method for module in modules).most_common()),
        ranks=tuple(sorted({rank for module in sound if (rank := rank_of(module)) is not None})),
        alphas=tuple(sorted({alpha for module in sound if (alpha := alpha_of(module)) is not None})),
        change=math.sqrt(sum(size**2 for size in sizes.values())) if len(sizes) == len(layers) else None,
        largest=largest,
    )


def change_of(module: Module) -> float | None:
    """‖ΔW‖, computed from small matrices; None where it depends on the model, or tensors are missing or do not fit."""
    tensors = {name: np.asarray(tensor, np.float64) for name, tensor in module.tensors.items()}
    if module.method.startswith(_ON_THE_MODEL) or module.method.endswith("dora"):
        return None
    try:
        return _SIZES[module.method](tensors)
    except (KeyError, ValueError):  # unknown, or factors that do not meet
        return None


def _scale(tensors: Mapping[str, Any], rank: int) -> float:
    return float(tensors["alpha"]) / rank if "alpha" in tensors and rank else 1.0


def _of_lora(tensors: Mapping[str, Any]) -> float:
    down, up = tensors["lora_down"], tensors["lora_up"]
    rank = down.shape[-1]
    up = up.reshape(rank, -1)
    if "lora_mid" in tensors:
        down = np.einsum("ir,hwrs->hwis", down.reshape(-1, rank), tensors["lora_mid"])
    down = down.reshape(-1, rank)
    # ‖A B‖² is the sum of (AᵀA) ⊙ (B Bᵀ)
    return _scale(tensors, rank) * math.sqrt(max(0.0, float(np.sum((down.T @ down) * (up @ up.T)))))


def _of_loha(tensors: Mapping[str, Any]) -> float:
    rank = tensors["hada_w1_b"].shape[-1]
    if "hada_t1" in tensors:
        raise KeyError("a core")
    one, two = (tensors[f"hada_w{n}_b"] @ tensors[f"hada_w{n}_a"] for n in (1, 2))
    return _scale(tensors, rank) * float(np.linalg.norm(one * two))


def _of_lokr(tensors: Mapping[str, Any]) -> float:
    if "lokr_t2" in tensors:
        raise KeyError("a core")
    sizes, ranks = [], []
    for name in ("lokr_w1", "lokr_w2"):
        if name in tensors:
            sizes.append(float(np.linalg.norm(tensors[name])))
        else:
            sizes.append(float(np.linalg.norm(tensors[f"{name}_b"] @ tensors[f"{name}_a"])))
            ranks.append(tensors[f"{name}_b"].shape[-1])
    # a Kronecker product is as large as its factors together; without small ranks alpha does not count
    return (_scale(tensors, ranks[-1]) if ranks else 1.0) * math.prod(sizes)


def _of_sum(tensors: Mapping[str, Any]) -> float:
    return math.sqrt(sum(float(np.sum(tensor**2)) for name, tensor in tensors.items() if name != "alpha"))


_SIZES = {"lora": _of_lora, "loha": _of_loha, "lokr": _of_lokr, "diff": _of_sum, "norm": _of_sum}


def dora_axis_of(layer: Layer) -> str | None:
    """Which channels have magnitudes; None without DoRA."""
    scale = layer.module.tensors.get("dora_scale")
    if scale is None or not scale.shape:
        return None
    return "input" if scale.shape[-1] == 1 else "output"


def misfits(layer: Layer) -> list[str]:
    """What is wrong with a layer, one line each."""
    tensors, found = layer.module.tensors, []
    where = f"{layer.network}/{layer.path}"
    if odd := odd_shape(tensors):
        found.append(f"{where}: {odd} has the shape {list(tensors[odd].shape)}, which no adapter gives it")
    elif layer.module.method == UNKNOWN:
        found.append(f"{where} has {', '.join(sorted(tensors))}: together that is nothing known")
    for name, tensor in tensors.items():
        given = np.asarray(tensor)
        array = given.astype(np.float32) if given.dtype.itemsize < 4 else given
        if bad := np.count_nonzero(~np.isfinite(array)):
            found.append(f"{where}: {name} has {bad} of {array.size} values that are not finite")
        elif not array.any() and (name in _NEVER_ZERO or (name == "alpha" and _is_scaled(layer.module))):
            found.append(f"{where}: {name} is zero, so that it changes nothing")
        if array.size > 1 and not jnp.issubdtype(given.dtype, jnp.floating):
            found.append(f"{where}: {name} is {given.dtype.name}, not real: take a file that is not quantised")
    if layer.module.method != UNKNOWN and (unmet := unmet_ranks(tensors)):
        found.append(f"{where}: {unmet}")
    return found


_NEVER_ZERO = ("lora_up", "lora_down", "hada_w1_a", "hada_w2_a")


def _is_scaled(module: Module) -> bool:
    """Whether alpha multiplies the change; that of OFT bounds it, where it is above 0."""
    return module.method.startswith(("lora", "dora", "loha", "lokr"))


def layers_of(
    keys: Mapping[str, Key], modules: Mapping[tuple[str, str], Module], scaled: frozenset[tuple[str, str]]
) -> list[Layer]:
    """The layers of a file.

    Args:
        keys: its names.
        modules: (network, path) -> what becomes of it.
        scaled: those whose alpha stands in the metadata alone, and is not the rank.
    """
    names: dict[tuple[str, str], list[str]] = {}
    dialects: dict[tuple[str, str], str] = {}
    for name, key in keys.items():
        names.setdefault((key.network, key.path), []).append(name)
        if key.tensor not in ("alpha",) or (key.network, key.path) not in dialects:
            dialects[key.network, key.path] = key.dialect
    return [
        Layer(network, path, dialects[network, path], tuple(names[network, path]), module, (network, path) in scaled)
        for (network, path), module in modules.items()
    ]
