# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What an adapter makes of which layers -> a file in kohya's dialect, or in PEFT's.

Kohya's alone is loaded by A1111, Forge, ComfyUI and diffusers. DoRA has an axis that its magnitudes stand along, and
tools agree on one only in each dialect: input axis in kohya's, output axis in PEFT's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.adapters.dialects import MAGNITUDE, Modules, kohya_key, kohya_module, peft_key
from dreambooth_jax.weights.adapters.hashes import sshs_hashes
from dreambooth_jax.weights.adapters.lidb_seed import SEED, seed_metadata
from dreambooth_jax.weights.adapters.methods import Module, to_torch
from dreambooth_jax.weights.adapters.peft_settings import settings_of
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.whole_files import in_order, write_whole
from dreambooth_jax.weights.writing import checked_dtype, outgoing

Dialect = Literal["kohya", "peft"]
SUFFIX = ".safetensors"
_PEFT_METHODS = ("lora", "dora")


def write_adapter(
    path: str | Path,
    networks: Mapping[str, Mapping[str, Module]],
    *,
    dialect: Dialect = "kohya",
    dtype: DTypeLike = "float32",
    metadata: Mapping[str, str] | None = None,
    words: Mapping[str, Leaf] | None = None,
    modules: Modules = kohya_module,
) -> None:
    """Write a file, all of it or nothing.

    Args:
        path: the file, which ends in .safetensors.
        networks: network -> path of a layer -> what becomes of it, laid out as kernels are.
        dialect: how tensors are named.
        dtype: float32, float16 or bfloat16; alphas are float32 in any, and whole numbers stay what they are.
        metadata: texts for the header; the hashes that A1111 and others look for are added.
        words: arrays of new words, ``bundle_emb.…``, which are written as they are.
        modules: names of layers in kohya's dialect.

    Raises:
        InputError: if the dialect has no form for what is to be written, a value is beyond the dtype's range or not
            finite, or it cannot be saved. What was there stays.
    """
    target = at_home(path)
    if target.suffix.lower() != SUFFIX or target.is_dir():
        raise InputError(f"{path}: an adapter is one file, whose name ends in {SUFFIX}, such as lora{SUFFIX}")
    if dialect not in get_args(Dialect):
        raise InputError(f"dialect = {dialect!r}: choose one of {', '.join(get_args(Dialect))}")
    name: Callable[[str, str, str], str] = partial(kohya_key, module=modules) if dialect == "kohya" else peft_key
    tensors = {"kohya": _kohya_tensors, "peft": _peft_tensors}[dialect]
    leaves = in_order({**_leaves(networks, name, tensors, dtype=checked_dtype(dtype)), **(words or {})})
    texts = {**(metadata or {}), **(settings_of(networks) if dialect == "peft" else {}), **seed_metadata(networks)}
    write_whole(target, leaves, texts | sshs_hashes(leaves, texts))


def _leaves(
    networks: Mapping[str, Mapping[str, Module]],
    name_of: Callable[[str, str, str], str],
    tensors_of: Callable[[str, Module], Mapping[str, np.ndarray]],
    *,
    dtype: np.dtype,
) -> dict[str, Leaf]:
    leaves: dict[str, Leaf] = {}
    for network, layers in networks.items():
        for path, module in layers.items():
            for tensor, array in tensors_of(f"{network}/{path}", module).items():
                kept = array.dtype if array.dtype.kind in "iu" else np.dtype(np.float32) if tensor == "alpha" else dtype
                (leaf,) = outgoing(network, {f"{path}/{tensor}": array}, dtype=kept, finite=True).values()
                leaves[name_of(network, path, tensor)] = leaf
    return leaves


def _kohya_tensors(layer: str, module: Module) -> dict[str, np.ndarray]:
    if module.method == "dora" and dora_axis(module.tensors) == "output":
        raise InputError(
            f"{layer} has DoRA's magnitudes along the output, which A1111 and ComfyUI read wrongly in kohya's dialect: "
            "write format=peft, or rank=16 for the plain LoRA that is nearest"
        )
    return {name: to_torch(np.asarray(array)) for name, array in module.tensors.items() if name != SEED}


def _peft_tensors(layer: str, module: Module) -> dict[str, np.ndarray]:
    if module.method not in _PEFT_METHODS or "lora_mid" in module.tensors:
        raise InputError(f"{layer} is changed by {module.method}, which PEFT's dialect has no form for: write kohya's")
    tensors = {name: to_torch(np.asarray(module.tensors[name])) for name in ("lora_down", "lora_up")}
    if module.method == "dora":
        if dora_axis(module.tensors) == "input":
            raise InputError(
                f"{layer} has DoRA's magnitudes along the input, which PEFT does not have: "
                "write format=kohya, or rank=16 for the plain LoRA that is nearest"
            )
        magnitude = np.asarray(module.tensors["dora_scale"])
        tensors[MAGNITUDE] = magnitude.reshape(1, -1, 1, 1) if magnitude.ndim == 4 else magnitude.reshape(-1)
    return tensors


def dialect_for_most(networks: Mapping[str, Mapping[str, Module]]) -> Dialect:
    """The dialect that most tools read: kohya's, but for magnitudes that only PEFT's has."""
    modules = [module for layers in networks.values() for module in layers.values()]
    needs_peft = any(module.method == "dora" and dora_axis(module.tensors) == "output" for module in modules)
    return "peft" if needs_peft else "kohya"


def dora_axis(tensors: Mapping[str, Any]) -> Literal["input", "output"]:
    """Which channels have a magnitude each: [i, 1] and [1, 1, i, 1], or [1, o] and [1, 1, 1, o]."""
    return "input" if tensors["dora_scale"].shape[-1] == 1 and tensors["lora_up"].shape[-1] != 1 else "output"
