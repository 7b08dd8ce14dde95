# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A model before its weights are read, wherever it comes from: a folder, the hub, or a single file."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dreambooth_jax.diffusion.schedule import as_in_pipelines
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.families import Family
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.files import Leaf, read_safetensors, read_shards
from dreambooth_jax.weights.fingerprint import file_fingerprint, fingerprint, told_of
from dreambooth_jax.weights.flax_msgpack import read_msgpack
from dreambooth_jax.weights.folders import INDEX, SCHEDULER, locate, locate_configs, read_family, read_index
from dreambooth_jax.weights.json_files import read_json
from dreambooth_jax.weights.single_file import is_single_file, open_single_file
from dreambooth_jax.weights.tokenizer_files import CLIP, find_tokenizer
from dreambooth_jax.weights.torch_files import read_torch

log = logging.getLogger(__name__)

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class Table(NamedTuple):
    """Arrays of one network by name, in any dialect of diffusers' layout.

    Attributes:
        leaves: the arrays.
        file: that errors are to name.
        settings: what says which arrays there must be.
    """

    leaves: Mapping[str, Leaf]
    file: Path
    settings: str = "its config.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model before its weights are read.

    Attributes:
        path: of the folder or file.
        family: which components there are.
        configs: content of each component's ``config.json``.
        scheduler_config: content of ``scheduler_config.json``, as diffusers' pipelines use it.
        tokenizers: text encoder -> folder of its tokenizer.
        index: what else ``model_index.json`` says, or the family's defaults.
        read: (component, shapes of its parameters by our names) -> its table.
        fingerprint: of the files that are read.
        as_found: whether nothing was told of it that it says otherwise.
    """

    path: Path
    family: Family
    configs: Mapping[str, Mapping[str, Any]]
    scheduler_config: Mapping[str, Any]
    tokenizers: Mapping[str, Path]
    index: Mapping[str, Any]
    read: Callable[[str, Shapes], Table]
    fingerprint: Callable[[], str]
    as_found: bool


def open_source(
    source: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    weights: bool = True,
) -> Source:
    """Find a model and read what it says of itself.

    Args:
        source: folder in the diffusers layout, a hub id, or a single file.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.
        tokenizer: folder of a single file's tokenizer.
        prediction_type: what the denoiser predicts, in the place of what the model says.
        weights: whether weights must be there, too.

    Raises:
        InputError: if there is no such model, or what it says is missing or broken.
    """
    if is_single_file(at_home(source)):
        for name, value in (("revision", revision), ("variant", variant)):
            if value is not None:
                raise InputError(f"{name} = {value}: {source} is a single file, which has none; leave it out")
        return _of_file(at_home(source), tokenizer=tokenizer, prediction_type=prediction_type)
    if tokenizer is not None:
        raise InputError(f"tokenizer = {tokenizer}: only single files need one, {source} has its own; leave it out")
    if weights:
        folder, files = locate(str(source), revision=revision, variant=variant)
        _tell_of_scheduler(folder / SCHEDULER)
    else:
        folder, files = locate_configs(str(source), revision=revision), {}
    return _of_folder(folder, files, prediction_type=prediction_type)


def _of_folder(folder: Path, files: dict[str, Path], *, prediction_type: str | None) -> Source:
    family = read_family(folder / INDEX)
    scheduler = as_in_pipelines(read_json(folder / SCHEDULER))
    told = {"prediction_type": prediction_type} if prediction_type else {}
    return Source(
        path=folder,
        family=family,
        configs={name: read_json(folder / name / "config.json") for name in family.components},
        scheduler_config={**scheduler, **told},
        tokenizers={encoder: folder / name for encoder, name in family.text_encoders.items()},
        index=read_index(folder / INDEX, family),
        read=lambda component, shapes: Table(read_table(files[component]), files[component]),
        fingerprint=lambda: told_of(fingerprint(folder, family, files), told),
        as_found=not told,
    )


def _of_file(file: Path, *, tokenizer: str | Path | None, prediction_type: str | None) -> Source:
    found = open_single_file(file, prediction_type=prediction_type)
    tokenizers = {}
    for encoder, folder in found.family.text_encoders.items():
        config = CLIPTextConfig.from_json(found.configs[encoder], file=str(file))
        tokenizers[encoder] = find_tokenizer(
            file,
            found.layout.homes[encoder].dialect.tower or CLIP,
            what=f"{encoder} of a {found.layout.name}",
            folder=folder,
            entries=config.vocab_size,
            given=tokenizer,
        )
    told = {"prediction_type": prediction_type} if prediction_type else {}
    return Source(
        path=file,
        family=found.family,
        configs=found.configs,
        scheduler_config=as_in_pipelines(found.scheduler_config),
        tokenizers=tokenizers,
        index=found.family.index,
        read=lambda component, shapes: Table(found.table(component, shapes), file, "what it should be by its shapes"),
        fingerprint=lambda: told_of(file_fingerprint(file, tokenizers.values()), told),
        as_found=not told,
    )


def read_table(file: Path) -> dict[str, Leaf]:
    """Arrays of a component's weights file, or of the shards of an index."""
    if ".index." in file.name:
        return read_shards(file, read_safetensors)
    return _READERS.get(file.suffix, read_safetensors)(file)


_READERS: Mapping[str, Callable[[Path], dict[str, Leaf]]] = {".msgpack": read_msgpack, ".bin": read_torch}


def _tell_of_scheduler(file: Path) -> None:
    stated = read_json(file)
    used = as_in_pipelines(stated)
    changed = [f"{key}={used[key]} (not {value})" for key, value in stated.items() if used[key] != value]
    if changed:
        log.info("%s: %s is used, as StableDiffusionPipeline does", file, " and ".join(changed))
