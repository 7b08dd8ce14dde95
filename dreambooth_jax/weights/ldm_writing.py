# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Parameters -> a single file that A1111, ComfyUI and diffusers' ``from_single_file`` open.

Its metadata are those of the model specification (https://github.com/Stability-AI/ModelSpec, 1.0.1), and all
configurations, so that we read networks that nobody else knows, too. There is no place for a tokenizer.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, turned
from dreambooth_jax.weights.layouts import Home, Layout, layout_of
from dreambooth_jax.weights.ldm import Stored
from dreambooth_jax.weights.modelspec import modelspec
from dreambooth_jax.weights.single_file import OWN_METADATA, configs_text
from dreambooth_jax.weights.whole_files import write_whole
from dreambooth_jax.weights.writing import checked_dtype, outgoing

SUFFIX = ".safetensors"


def write_single_file(
    path: str | Path,
    *,
    params: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    scheduler_config: Mapping[str, Any],
    family: Family = SD,
    dtype: DTypeLike = "float32",
    finite: bool = False,
) -> None:
    """Write a model as one file, all of it or nothing.

    Args:
        path: the file, which ends in .safetensors.
        params: all leaves of all components.
        configs: as in ``Components``.
        scheduler_config: content of the ``scheduler_config.json``.
        family: which components there are.
        dtype: float32, float16 or bfloat16.
        finite: refuse values that are not.

    Raises:
        InputError: if it cannot be saved, or a value is beyond the dtype's range or not finite. What was there stays.
    """
    target = at_home(path)
    if target.suffix.lower() != SUFFIX or target.is_dir():
        raise InputError(f"{path}: format = ldm writes one file, whose name ends in {SUFFIX}, such as dog{SUFFIX}")
    layout = layout_of(family, configs)
    leaves = single_file_leaves(params, configs, layout, dtype=checked_dtype(dtype), finite=finite)
    leaves |= {name: _leaf(np.zeros(0, np.float32)) for name in _markers(layout, scheduler_config)}
    metadata = modelspec(target.stem, configs, scheduler_config, family=family)
    metadata[OWN_METADATA] = configs_text(configs, scheduler_config)
    write_whole(target, leaves, metadata, hash_name="modelspec.hash_sha256")


def single_file_leaves(
    params: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    layout: Layout,
    *,
    dtype: np.dtype,
    finite: bool = False,
) -> dict[str, Leaf]:
    """All arrays of a model by their names in a single file, as the original code has them."""
    leaves: dict[str, Leaf] = {}
    thirds: dict[str, dict[int, Leaf]] = {}
    for component, home in layout.homes.items():
        leaves |= {home.prefix + name: leaf for name, leaf in _buffers(home, configs[component], dtype)}
        config = layout.family.components[component].config_cls.from_json(configs[component])
        for name, leaf in outgoing(component, params[component], dtype=dtype, finite=finite).items():
            theirs = turned(leaf, partial(names.to_torch, name))
            stored = home.dialect.place(config, names.torch_name(name))
            key = home.prefix + stored.key
            if stored.third is not None:
                thirds.setdefault(key, {})[stored.third] = theirs
            else:
                leaves[key] = _as_stored(theirs, stored)
    return leaves | {key: _joined([parts[third] for third in range(3)]) for key, parts in thirds.items()}


def _buffers(home: Home, config: Mapping[str, Any], dtype: np.dtype) -> Iterator[tuple[str, Leaf]]:
    """What the original code keeps besides parameters."""
    if home.positions:
        yield home.positions, _leaf(np.arange(config.get("max_position_embeddings", 77))[None])
    for name, (key, default) in home.scalars.items():
        yield name, _leaf(np.asarray(config.get(key, default), dtype))


def _leaf(array: np.ndarray) -> Leaf:
    return Leaf(shape=array.shape, dtype=array.dtype, load=lambda: array)


def _as_stored(leaf: Leaf, stored: Stored) -> Leaf:
    if stored.as_matrix:
        return turned(leaf, np.transpose)
    return turned(leaf, _as_conv) if stored.as_conv else leaf


def _as_conv(weight: np.ndarray) -> np.ndarray:
    return weight[:, :, None, None]


def _joined(parts: list[Leaf]) -> Leaf:
    rows, *rest = parts[0].shape
    shape = (len(parts) * rows, *rest)
    return Leaf(shape=shape, dtype=parts[0].dtype, load=lambda: np.concatenate([part.load() for part in parts]))


def _markers(layout: Layout, scheduler_config: Mapping[str, Any]) -> list[str]:
    """What A1111 and ComfyUI look for among the arrays: v-prediction where nobody expects it, zero terminal SNR."""
    is_v = scheduler_config.get("prediction_type") == "v_prediction"
    return ["v_pred"] * (is_v and not layout.norm_tells) + ["ztsnr"] * bool(
        scheduler_config.get("rescale_betas_zero_snr")
    )
