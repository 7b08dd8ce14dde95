# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A file of an adapter: what it changes, for which model, and what is wrong with it. Nothing of it is refused."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.adapters.dialects import Key, read_key
from dreambooth_jax.weights.adapters.lidb_seed import with_seed
from dreambooth_jax.weights.adapters.methods import Module, method_of, odd_shape
from dreambooth_jax.weights.adapters.peft_settings import alphas_of
from dreambooth_jax.weights.adapters.reading import EMBEDDINGS, by_layer, laid_out, named_twice
from dreambooth_jax.weights.checking.bases import BASES
from dreambooth_jax.weights.checking.judging import damage_of_places, judged
from dreambooth_jax.weights.checking.layers import UNKNOWN, Layer, dora_axis_of, layers_of, misfits, network_reports
from dreambooth_jax.weights.checking.made_for import base_of
from dreambooth_jax.weights.checking.tools import tool_reports
from dreambooth_jax.weights.checking.ways_out import refusal_of, ways_out
from dreambooth_jax.weights.files import Leaf

_CALLED = {
    "lora": "LoRA",
    "dora": "DoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "ia3": "(IA)³",
    "oft": "OFT",
    "boft": "BOFT",
    "diff": "differences of whole kernels",
    "norm": "norms",
    "svdiff": "SVDiff",
    "lidb": "LiDB",
    "glora": "GLoRA",
}


def is_adapter(leaves: Mapping[str, Leaf]) -> bool:
    """By its names."""
    return any(read_key(name) is not None for name in leaves)


def adapter_facts(file: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a report says of it: the fields of ``FileReport`` that depend on what kind of file it is."""
    keys = {name: key for name in leaves if (key := read_key(name)) is not None}
    others = {name: leaf for name, leaf in leaves.items() if name not in keys}
    words = sorted(name for name in others if name.startswith(EMBEDDINGS))
    layers, damage = _layers(file, keys, leaves, metadata)
    base = base_of(layers)
    layers = [judged(layer, base) for layer in layers]
    if same := named_twice(keys):
        damage.append(f"{same[0]} and {same[1]} are the same tensor of the same layer")
    for layer in layers:
        damage += misfits(layer)
    places = list(damage_of_places(layers, base))
    damage += places
    damage += [f"{name} belongs to no layer" for name in sorted(others) if name not in words]
    methods = Counter(layer.module.method for layer in layers)
    called = " and ".join(_CALLED.get(method, method) for method, _ in methods.most_common())
    facts = {"names": ", ".join(sorted({key.dialect for key in keys.values()}))}
    if words:
        facts["words"] = f"{len(words)} arrays of new words come with it"
    if axes := sorted({axis for layer in layers if (axis := dora_axis_of(layer))}):
        facts["magnitudes"] = f"along the {' and '.join(axes)}"
    refusal = refusal_of(file) or (f"refuses it for such a model: {places[0]}" if places else None)
    counted = base in BASES and BASES[base].family.naming.counts_as_original
    tools = tool_reports(layers, others, counted=counted, refusal=refusal)
    return {
        "kind": f"an adapter: {called}{', with new words' if words else ''}",
        "base": base,
        "networks": network_reports(layers),
        "facts": facts,
        "damage": tuple(damage),
        "tools": tools,
        "ways_out": () if refusal else tuple(ways_out(file, layers, tools, has_words=bool(words))),
    }


def _layers(
    file: Path, keys: Mapping[str, Key], leaves: Mapping[str, Leaf], metadata: Mapping[str, str]
) -> tuple[list[Layer], list[str]]:
    """(layers, what the metadata has wrong)."""
    networks: dict[str, dict[str, Module]] = {}
    damage: list[str] = []
    for (network, path), names in by_layer(keys).items():
        tensors = {tensor: leaves[name].load() for tensor, name in names.items()}
        networks.setdefault(network, {})[path] = _module(tensors)
    told = networks
    try:
        told = alphas_of(networks, keys, metadata, file=file)
        for network, layers in told.items():
            for path, module in layers.items():
                if "lidb_down" in module.tensors and not odd_shape(module.tensors):
                    tensors = with_seed(module.tensors, metadata, file=file)
                    told[network][path] = Module(method_of(tensors) or UNKNOWN, tensors)
    except InputError as error:
        damage.append(str(error))
    scaled = frozenset(
        (network, path)
        for network, layers in told.items()
        for path, module in layers.items()
        if "alpha" not in networks[network][path].tensors and _alpha_is_not_rank(module)
    )
    modules = {(network, path): module for network, layers in told.items() for path, module in layers.items()}
    return layers_of(keys, modules, scaled), damage


def _alpha_is_not_rank(module: Module) -> bool:
    tensors = module.tensors
    if module.method == UNKNOWN or "alpha" not in tensors or "lora_down" not in tensors:
        return False
    return float(tensors["alpha"]) != tensors["lora_down"].shape[-1]


def _module(tensors: Mapping[str, np.ndarray]) -> Module:
    ours = laid_out(tensors)
    return Module(UNKNOWN if odd_shape(ours) else method_of(ours) or UNKNOWN, ours)
