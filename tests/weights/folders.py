# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Model folders for the tests, made of the legacy Flax fixtures without PyTorch."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.pretrained import Components
from dreambooth_jax.weights.writing import write_folder

FIXTURES = Path(__file__).parent.parent / "fixtures"
KINDS = ("legacy_flax_sd15", "legacy_flax_sd21")
STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
Arrays = dict[str, np.ndarray]


def write(path: Path, components: Components, **options) -> Path:
    """Components written as a folder."""
    write_folder(
        path,
        params=components.params,
        configs=components.configs,
        scheduler_config=components.scheduler_config,
        tokenizers={name: components.folder / name for name in components.family.text_encoders.values()},
        family=components.family,
        index=components.index,
        **options,
    )
    return path


def assert_same(params, expected) -> None:
    """Equal names, dtypes and bytes."""
    params, expected = flatten(params), flatten(expected)
    assert params.keys() == expected.keys()
    for name, leaf in expected.items():
        assert params[name].dtype == leaf.dtype, name
        np.testing.assert_array_equal(params[name], leaf, err_msg=name)


def weights(folder: Path, component: str) -> Path:
    """The component's safetensors file."""
    return folder / component / f"{STEMS[component]}.safetensors"


def rewrite(folder: Path, component: str, change: Callable[[Arrays], Arrays]) -> None:
    """Change what the component's safetensors file holds."""
    file = weights(folder, component)
    save_file({k: np.ascontiguousarray(v) for k, v in change(load_file(file)).items()}, file, metadata={"format": "pt"})


def rename(folder: Path, component: str, old: str, new: str) -> None:
    """Replace a part of all names in the component's safetensors file."""
    rewrite(folder, component, lambda arrays: {name.replace(old, new): array for name, array in arrays.items()})


def shard(folder: Path, component: str, *, variant: str | None = None) -> Path:
    """Split the component's safetensors file in two, as diffusers and transformers do; returns the index."""
    file, stem = weights(folder, component), STEMS[component]
    arrays = load_file(file)
    file.unlink()
    mark = f".{variant}" if variant else ""
    shards = [f"{stem}{mark}-{i:05}-of-00002.safetensors" for i in (1, 2)]
    place = {name: shards[i % 2] for i, name in enumerate(arrays)}
    for name in shards:
        save_file({key: arrays[key] for key in arrays if place[key] == name}, file.parent / name)
    index = file.parent / f"{stem}.safetensors.index{mark}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": place}))
    return index
