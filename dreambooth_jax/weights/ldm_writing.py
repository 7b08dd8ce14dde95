# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Parameters -> a single file that A1111, ComfyUI and diffusers' ``from_single_file`` open.

Its metadata are those of the model specification (https://github.com/Stability-AI/ModelSpec, 1.0.1), and all
configurations, so that we read networks that nobody else knows, too. There is no place for a tokenizer.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, turned
from dreambooth_jax.weights.ldm import is_open_clip, places_of
from dreambooth_jax.weights.modelspec import modelspec
from dreambooth_jax.weights.single_file import OWN_METADATA, configs_text
from dreambooth_jax.weights.whole_files import write_whole
from dreambooth_jax.weights.writing import checked_dtype, outgoing

SUFFIX = ".safetensors"
MARKER = Leaf(shape=(0,), dtype=np.dtype(np.float32), load=lambda: np.zeros(0, np.float32))
"""An array that says something by its name alone."""


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
        params: all leaves of the three components.
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
    if family is not SD:
        raise InputError(f"format = ldm is for Stable Diffusion 1 and 2, this is a {family.pipeline_class}")
    leaves = single_file_leaves(params, configs, dtype=checked_dtype(dtype), finite=finite)
    leaves |= {name: MARKER for name in _markers(configs, scheduler_config)}
    metadata = modelspec(target.stem, configs, scheduler_config)
    metadata[OWN_METADATA] = configs_text(configs, scheduler_config)
    write_whole(target, leaves, metadata, hash_name="modelspec.hash_sha256")


def single_file_leaves(
    params: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], *, dtype: np.dtype, finite: bool = False
) -> dict[str, Leaf]:
    """All arrays of a model by their names in a single file, in PyTorch's layout."""
    places = places_of(CLIPTextConfig.from_json(configs["text_encoder"]))
    leaves: dict[str, Leaf] = {}
    thirds: dict[str, dict[int, Leaf]] = {}
    for component, kind in SD.components.items():
        config = kind.config_cls.from_json(configs[component])
        for name, leaf in outgoing(component, params[component], dtype=dtype, finite=finite).items():
            theirs = turned(leaf, partial(names.to_torch, name))
            stored = places[component](config, names.torch_name(name))
            if stored.third is not None:
                thirds.setdefault(stored.key, {})[stored.third] = theirs
            else:
                leaves[stored.key] = turned(theirs, _as_conv) if stored.as_conv else theirs
    return leaves | {key: _joined([parts[third] for third in range(3)]) for key, parts in thirds.items()}


def _as_conv(weight: np.ndarray) -> np.ndarray:
    return weight[:, :, None, None]


def _joined(parts: list[Leaf]) -> Leaf:
    rows, *rest = parts[0].shape
    shape = (len(parts) * rows, *rest)
    return Leaf(shape=shape, dtype=parts[0].dtype, load=lambda: np.concatenate([part.load() for part in parts]))


def _markers(configs: Mapping[str, Mapping[str, Any]], scheduler_config: Mapping[str, Any]) -> list[str]:
    """What A1111 and ComfyUI look for among the arrays: v-prediction where nobody expects it, zero terminal SNR."""
    is_2 = is_open_clip(CLIPTextConfig.from_json(configs["text_encoder"]))
    is_v = scheduler_config.get("prediction_type") == "v_prediction"
    return ["v_pred"] * (is_v and not is_2) + ["ztsnr"] * bool(scheduler_config.get("rescale_betas_zero_snr"))
