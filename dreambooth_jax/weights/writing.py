# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Modules' parameters -> a folder in the diffusers layout, one leaf at a time. Reading it again in float32 is exact."""

import json
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import ComponentKind
from dreambooth_jax.models.families import SD, Family
from dreambooth_jax.paths import at_home
from dreambooth_jax.trees import Tree, flatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, turned, write_safetensors
from dreambooth_jax.weights.flax_msgpack import write_msgpack
from dreambooth_jax.weights.folders import INDEX, SCHEDULER
from dreambooth_jax.weights.replacing import replacing

Format = Literal["safetensors", "flax"]
DTYPES = ("float32", "float16", "bfloat16")

# transformers' name for pickled weights, of which diffusers' own name is the stem
_PICKLED = "pytorch_model"
_WEIGHTS = (".safetensors", ".msgpack", ".bin", ".json")
_TOKENIZER_FILES = (".json", ".txt", ".model")
_TOKENS = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
# settings that PyTorch's classes would complain about
_FLAX_ONLY = ("split_head_dim", "use_memory_efficient_attention")
# the schedulers of which there was a Flax class
_FLAX_SCHEDULERS = (
    *("DDIM", "DDPM", "DPMSolverMultistep", "EulerDiscrete"),
    *("KarrasVe", "LMSDiscrete", "PNDM", "ScoreSdeVe"),
)


def write_folder(
    path: str | Path,
    *,
    params: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    scheduler_config: Mapping[str, Any],
    tokenizers: Mapping[str, Path],
    family: Family = SD,
    index: Mapping[str, Any] | None = None,
    format: Format = "safetensors",
    dtype: DTypeLike = "float32",
    finite: bool = False,
) -> None:
    """Write a model for ``from_pretrained`` of diffusers' pipelines; the inverse of ``load_components``.

    Args:
        path: the folder. Files of these names are replaced when all are written, and weights in the other format
            removed, which would be read in their place. All else is left alone.
        params: all leaves of the three components.
        configs: as in ``Components``.
        scheduler_config: content of the ``scheduler_config.json``.
        tokenizers: name of each tokenizer's folder -> where its files are copied from.
        family: which components there are.
        index: what else ``model_index.json`` says; by default as the family has it.
        format: "safetensors", or "flax" for the msgpack files that the legacy Flax classes read.
        dtype: float32, float16 or bfloat16.
        finite: refuse values that are not.

    Raises:
        InputError: if it cannot be saved (a full disk), a value is beyond the dtype's range, or it has files of
            another model that would be read with these, or a value is not finite. What was there stays.
    """
    dtype = _checked(path, format, dtype)
    own = {
        f"{name}/{file}"
        for name, kind in family.components.items()
        for file in (f"{kind.stems.torch}.safetensors", f"{kind.stems.flax}.msgpack")
    }
    _check_target(at_home(path), family, tokenizers, own=own)
    with replacing(Path(path), superseded=sorted(own)) as folder:
        for component, kind in family.components.items():
            config = _config(configs[component], format)
            if kind.library_class[0] == "transformers":
                config = {**config, "torch_dtype": dtype.name}  # transformers loads in the dtype that it finds here
                config.pop("dtype", None)  # its newer name, for which torch_dtype stands in all versions
            _write_json(folder / component / "config.json", config)
            _write_weights(folder, component, kind, params[component], format=format, dtype=dtype, finite=finite)
        scheduler = _config({"_class_name": "DDIMScheduler", **scheduler_config}, format)
        _write_json(folder / SCHEDULER, scheduler)
        _write_json(folder / INDEX, _model_index(family, scheduler["_class_name"], format, index or {}))
        for name, source in tokenizers.items():
            (folder / name).mkdir()
            for file in sorted(source.iterdir()):
                if file.is_file() and file.suffix in _TOKENIZER_FILES:
                    shutil.copyfile(file, folder / name / file.name)


def _checked(path: str | Path, format: Format, dtype: DTypeLike) -> np.dtype:
    """The dtype; raise InputError unless all three can be used."""
    if not str(path):
        raise InputError("no folder was given to save to")
    if format not in get_args(Format):
        raise InputError(f"format = {format!r}: choose one of {', '.join(get_args(Format))}")
    return checked_dtype(dtype)


def checked_dtype(dtype: DTypeLike) -> np.dtype:
    """A dtype that weights are saved in; raise InputError for any other."""
    try:
        name = np.dtype(dtype or object).name
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise InputError(f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}")
    return np.dtype(name)


def _check_target(folder: Path, family: Family, tokenizers: Mapping[str, Path], *, own: Collection[str]) -> None:
    """Raise InputError if files would be left that a reader may prefer to ours: shards, variants, pickles, tokens."""
    stems = {name: (*kind.stems, _PICKLED) for name, kind in family.components.items()}
    left = [
        file
        for name in stems
        for file in sorted((folder / name).glob("*"))
        if file.suffix in _WEIGHTS
        and file.name.partition(".")[0].partition("-")[0] in stems[name]
        and f"{name}/{file.name}" not in own
    ]
    left += [
        folder / name / file
        for name, source in tokenizers.items()
        for file in _TOKENS
        if (folder / name / file).exists() and not (source / file).exists()
    ]
    if left:
        raise InputError(f"{left[0]} would be read in the place of what is saved: choose another folder, or remove it")


def _config(raw: Mapping[str, Any], format: Format) -> dict[str, Any]:
    """A config.json with the class names, and only the settings, of the format's library."""
    left_out = ("_name_or_path", *(_FLAX_ONLY if format == "safetensors" else ()))
    config = {key: value for key, value in raw.items() if key not in left_out}
    if "_class_name" in config:
        config["_class_name"] = _class_name(config["_class_name"], format)
    return config


def _class_name(name: str, format: Format) -> str:
    name = name.removeprefix("Flax")
    if format == "safetensors":
        return name
    if name.endswith("Scheduler") and name.removesuffix("Scheduler") not in _FLAX_SCHEDULERS:
        name = "DDIMScheduler"
    return f"Flax{name}"


def _model_index(family: Family, scheduler: str, format: Format, index: Mapping[str, Any]) -> dict[str, Any]:
    components = {
        name: [kind.library_class[0], _class_name(kind.library_class[1], format)]
        for name, kind in family.components.items()
    }
    return {
        "_class_name": _class_name(family.pipeline_class, format),
        **{**family.index, **index},
        "scheduler": ["diffusers", scheduler],
        **components,
        **{tokenizer: ["transformers", "CLIPTokenizer"] for tokenizer in family.text_encoders.values()},
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(
    folder: Path, component: str, kind: ComponentKind, params: Tree, *, format: Format, dtype: np.dtype, finite: bool
) -> None:
    leaves = outgoing(component, params, dtype=dtype, finite=finite)
    if format == "flax":
        legacy = {names.flax_name(kind.key_rules, name): leaf for name, leaf in leaves.items()}
        write_msgpack(folder / component / f"{kind.stems.flax}.msgpack", legacy)
    else:
        theirs = {names.torch_name(name): turned(leaf, partial(names.to_torch, name)) for name, leaf in leaves.items()}
        write_safetensors(folder / component / f"{kind.stems.torch}.safetensors", theirs)


def outgoing(component: str, params: Tree, *, dtype: np.dtype, finite: bool) -> dict[str, Leaf]:
    """Parameters by our names, each to be cast when its turn to be written comes.

    Args:
        component: whose they are, for errors.
        params: its tree.
        dtype: to cast to; values beyond its range are refused then.
        finite: refuse values that are not.
    """

    def leaf_of(name: str, array: Any) -> Leaf:
        return Leaf(shape=array.shape, dtype=dtype, load=lambda: load(f"{component}/{name}", _on_host(array)))

    def load(name: str, array: np.ndarray) -> np.ndarray:
        if finite and not np.isfinite(array).all():
            raise InputError(f"{name} has values that are not finite: nothing is saved")
        return _cast(name, array, dtype)

    return {name: leaf_of(name, array) for name, array in flatten(params).items()}


def _on_host(array: Any) -> np.ndarray:
    if isinstance(array, jax.Array):
        # the same buffers as a new array, because an array keeps the host's copy that is made of it
        shards = [shard.data for shard in array.addressable_shards]
        array = jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)
    return np.asarray(array)


def _cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    lost = np.isinf(cast) & np.isfinite(array)
    if lost.any():
        largest = np.abs(array[lost]).max()
        raise InputError(f"{name} has values beyond {dtype.name}'s range (up to {largest:g}): save bfloat16 or float32")
    return cast
