# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A folder in the diffusers layout, or a hub id <-> modules and parameters.

Reading goes names -> shapes -> bytes: every component's table of leaves is compared with what its module has
(``jax.eval_shape``) before the first byte is read, then leaf by leaf is read, turned, cast and placed.
Writing goes back the same way, one leaf at a time. The round trip in float32 is exact.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_text import CLIPTextModel
from dreambooth_jax.models.layers import Remat
from dreambooth_jax.models.unet import UNet2DConditionModel
from dreambooth_jax.models.vae import AutoencoderKL
from dreambooth_jax.target import CPU, Arch
from dreambooth_jax.trees import Tree, check_shapes, flatten, unflatten
from dreambooth_jax.weights import names
from dreambooth_jax.weights.files import Leaf, read_safetensors, read_shards, write_safetensors
from dreambooth_jax.weights.flax_msgpack import read_msgpack, write_msgpack
from dreambooth_jax.weights.folders import FLAX_STEMS, TORCH_STEMS, locate, locate_configs, replacing
from dreambooth_jax.weights.modules import build_modules, parameter_shapes

Format = Literal["safetensors", "flax"]
Place = Callable[[str, np.ndarray], jax.Array]

# settings that PyTorch's classes would complain about
_FLAX_ONLY = ("split_head_dim", "use_memory_efficient_attention")
# the schedulers of which there was a Flax class
_FLAX_SCHEDULERS = (
    *("DDIM", "DDPM", "DPMSolverMultistep", "EulerDiscrete"),
    *("KarrasVe", "LMSDiscrete", "PNDM", "ScoreSdeVe"),
)


@dataclass(frozen=True, kw_only=True)
class Components:
    """What a model folder holds."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    params: Tree
    """{"text_encoder": ..., "unet": ..., "vae": ...}"""
    configs: dict[str, dict]
    """Each component's config.json as it is in the folder."""
    scheduler_config: dict
    """scheduler_config.json, likewise."""
    folder: Path
    """Where they were read from; for a hub id its snapshot in the cache."""


def load_components(
    source: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    remat: Remat = "nothing",
    arch: Arch = CPU,
    place: Place = lambda name, array: jax.device_put(array),
) -> Components:
    """Read a model.

    Args:
        source: folder in the diffusers layout, or a hub id.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.
        dtype: what the modules compute in.
        param_dtype: what parameters are cast to.
        remat: what the backward pass computes again.
        arch: what the modules compute on.
        place: called with each leaf's name, such as unet/conv_in/kernel, and its array, which is the callee's to keep;
            puts it onto devices. By default the default device.

    Raises:
        InputError: if there is no such model, a file is missing or broken, the configuration asks for something we
            don't have, or names or shapes of the weights differ from it.
    """
    folder, weights = locate(str(source), revision=revision, variant=variant)
    components = _described(folder, dtype=dtype, remat=remat, arch=arch)
    matched = {
        component: _match(component, expected=flatten(components.params[component]), file=weights[component])
        for component in names.COMPONENTS
    }
    params = {component: _load(component, leaves, param_dtype, place) for component, leaves in matched.items()}
    return replace(components, params=params)


def describe_components(
    source: str | Path, *, revision: str | None = None, dtype: DTypeLike = jnp.float32, arch: Arch = CPU
) -> Components:
    """What :func:`load_components` gives, with float32 shapes for parameters; weights need not be there.

    Raises:
        InputError: if there is no such model, or its configuration is missing or asks for something we don't have.
    """
    return _described(locate_configs(str(source), revision=revision), dtype=dtype, arch=arch)


def _described(folder: Path, *, dtype: DTypeLike, arch: Arch, remat: Remat = "nothing") -> Components:
    configs = {component: _read_json(folder / component / "config.json") for component in names.COMPONENTS}
    scheduler_config = _read_json(folder / "scheduler" / "scheduler_config.json")
    modules = build_modules(configs, dtype=dtype, remat=remat, arch=arch)
    params = {component: unflatten(parameter_shapes(modules[component])) for component in names.COMPONENTS}
    return Components(**modules, params=params, configs=configs, scheduler_config=scheduler_config, folder=folder)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no settings")
    return content


def _match(component: str, *, expected: Mapping[str, jax.ShapeDtypeStruct], file: Path) -> dict[str, Leaf]:
    """Our name -> leaf of the file, in our layout."""
    ours = {names.key(component, name): name for name in expected}
    found: dict[str, Leaf] = {}
    for source, leaf in _read(file).items():
        key = names.key(component, source)
        name = ours.get(key, key)
        if name in found:
            name = source  # the file has it under two names: report the second as extra
        turn = partial(names.to_ours, name, source=source, ndim=len(expected.get(name, leaf).shape))
        found[name] = _turned(leaf, turn)
    check_shapes(
        expected={name: leaf.shape for name, leaf in expected.items()},
        found={name: leaf.shape for name, leaf in found.items()},
        source=str(file),
        ignore=names.IGNORED.get(component, ()),
    )
    return {name: found[name] for name in expected}


def _turned(leaf: Leaf, turn: Callable[[np.ndarray], np.ndarray]) -> Leaf:
    shape = turn(np.broadcast_to(np.int8(0), leaf.shape)).shape  # what happens to one number seen from everywhere
    return Leaf(shape=shape, dtype=leaf.dtype, load=lambda: turn(leaf.load()))


def _read(file: Path) -> dict[str, Leaf]:
    if ".index." in file.name:
        return read_shards(file, read_safetensors)
    return read_msgpack(file) if file.suffix == ".msgpack" else read_safetensors(file)


def _load(component: str, leaves: Mapping[str, Leaf], dtype: DTypeLike, place: Place) -> Tree:
    def load(name: str, leaf: Leaf) -> jax.Array:
        return place(f"{component}/{name}", np.asarray(leaf.load(), dtype=dtype, order="C"))

    return unflatten({name: load(name, leaf) for name, leaf in leaves.items()})


def write_folder(
    path: str | Path,
    *,
    params: Mapping[str, Any],
    configs: Mapping[str, Mapping[str, Any]],
    scheduler_config: Mapping[str, Any],
    tokenizer_folder: Path,
    format: Format = "safetensors",
    dtype: DTypeLike = "float32",
) -> None:
    """Write a model for ``diffusers.StableDiffusionPipeline.from_pretrained``; the inverse of ``load_components``.

    Args:
        path: the folder. What it has of these files is replaced when all are written, anything else left alone.
        params: all leaves of the three components.
        configs: as in ``Components``.
        scheduler_config: likewise.
        tokenizer_folder: its files are copied.
        format: "safetensors", or "flax" for the msgpack files that the legacy Flax classes read.
        dtype: float32, float16 or bfloat16.

    Raises:
        InputError: if it cannot be saved (a full disk), or a value is beyond the dtype's range. What was there stays.
    """
    dtype = np.dtype(dtype)
    with replacing(Path(path)) as folder:
        for component in names.COMPONENTS:
            config = _config(configs[component], format)
            if component == "text_encoder":
                config = {**config, "torch_dtype": dtype.name}  # transformers loads in the dtype that it finds here
                config.pop("dtype", None)  # its newer name, for which torch_dtype stands in all versions
            _write_json(folder / component / "config.json", config)
            _write_weights(folder / component, component, params[component], format=format, dtype=dtype)
        scheduler = _config({"_class_name": "DDIMScheduler", **scheduler_config}, format)
        _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        _write_json(folder / "model_index.json", _model_index(scheduler["_class_name"], format))
        (folder / "tokenizer").mkdir()
        for file in sorted(tokenizer_folder.iterdir()):
            if file.is_file():
                shutil.copyfile(file, folder / "tokenizer" / file.name)


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


def _model_index(scheduler: str, format: Format) -> dict[str, Any]:
    def entry(library: str, name: str) -> list[str]:
        return [library, _class_name(name, format)]

    return {
        "_class_name": _class_name("StableDiffusionPipeline", format),
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": entry("transformers", "CLIPTextModel"),
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": entry("diffusers", "UNet2DConditionModel"),
        "vae": entry("diffusers", "AutoencoderKL"),
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(folder: Path, component: str, params: Tree, *, format: Format, dtype: np.dtype) -> None:
    def outgoing(name: str, array: Any) -> Leaf:
        return Leaf(shape=array.shape, dtype=dtype, load=lambda: _cast(f"{component}/{name}", _on_host(array), dtype))

    leaves = {name: outgoing(name, array) for name, array in flatten(params).items()}
    if format == "flax":
        file = folder / f"{FLAX_STEMS[component]}.msgpack"
        write_msgpack(file, {names.flax_name(component, name): leaf for name, leaf in leaves.items()})
    else:
        turned = {names.torch_name(name): _turned(leaf, partial(names.to_torch, name)) for name, leaf in leaves.items()}
        write_safetensors(folder / f"{TORCH_STEMS[component]}.safetensors", turned)


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
