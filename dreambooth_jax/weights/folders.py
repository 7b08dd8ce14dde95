# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The diffusers layout: which files make up a model, here or on the hub.

    model_index.json   unet/  vae/  text_encoder/ (config.json and weights)   scheduler/  tokenizer/

Of each component's weights one file, or one index of shards, is taken: the variant that was asked for, else the plain
one; safetensors before msgpack before PyTorch's own files. The same rule reads a local folder's names and a
repository's.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import ComponentKind
from dreambooth_jax.models.families import Family, family_of
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights import hub
from dreambooth_jax.weights.json_files import read_json
from dreambooth_jax.weights.nearest import is_path, nearest, no_model

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
LOW_RES_SCHEDULER = "low_res_scheduler/scheduler_config.json"
"""Of upscalers: how noisy the small pictures are that they are told."""

_PICKLES = (".bin", ".bin.index.json", ".ckpt", ".pt", ".pth")
_PICKLED = {"model": "pytorch_model"}  # what transformers called files of PyTorch's own format


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which files make up something.

    Attributes:
        what: to call it in errors.
        components: folder -> kind of the network in it; the folder "" is the place itself.
        settings: files besides, all of them required.
        optional: files besides that some models have.
        tokenizers: folders of tokenizers.
    """

    what: str
    components: Mapping[str, ComponentKind]
    settings: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()

    @property
    def configs(self) -> list[str]:
        """Settings, and a ``config.json`` of each component."""
        return [*(_join(name, "config.json") for name in self.components), *self.settings]


def layout_of(family: Family) -> Layout:
    """Of a whole model."""
    return Layout(
        what="Stable Diffusion model in the diffusers layout",
        components=family.components,
        settings=(SCHEDULER,),
        optional=(LOW_RES_SCHEDULER,),
        tokenizers=tuple(dict.fromkeys(family.text_encoders.values())),
    )


def layout_alone(kind: ComponentKind) -> Layout:
    """Of one network, whose files lie in no folder of their own."""
    what = f"{kind.library_class[1]} in the diffusers layout"
    return Layout(what=what, components={"": kind}, optional=kind.beside)


def locate(source: str, *, revision: str | None = None, variant: str | None = None) -> tuple[Path, dict[str, Path]]:
    """Find a model, in a local folder or on the hub; of the hub's files only those that are needed are downloaded.

    Args:
        source: a folder, or a hub id such as ``org/name``. What exists locally is never looked up.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.

    Returns:
        The folder, and each component's weights file or index of shards.

    Raises:
        InputError: if there is no such model, or a file of it is missing.
    """

    def needed(names: Collection[str], index: Path | None) -> list[str]:
        layout = layout_of(read_family(index))
        return needed_files(names, choose_weights(names, layout, variant=variant, where=source), layout)

    folder = local_folder(source) or hub.download(source, revision, needed, index=INDEX)
    layout = layout_of(read_family(folder / INDEX))
    weights = choose_weights(_files(folder), layout, variant=variant, where=str(folder))
    return folder, {component: folder / file for component, file in weights.items()}


def locate_configs(source: str, *, revision: str | None = None) -> Path:
    """:func:`locate` without weights: of a hub id only configurations and tokenizers are downloaded."""

    def needed(names: Collection[str], index: Path | None) -> list[str]:
        return needed_files(names, {}, layout_of(read_family(index)))

    folder = local_folder(source) or hub.download(source, revision, needed, index=INDEX)
    check_layout(_files(folder), layout_of(read_family(folder / INDEX)), where=str(folder))
    return folder


def locate_module(
    source: str, kind: ComponentKind, *, revision: str | None = None, variant: str | None = None, weights: bool = True
) -> tuple[Path, Path]:
    """:func:`locate` for one network: its folder, and in it its weights file or index of shards; that is the folder
    itself where weights are not asked for."""
    layout = layout_alone(kind)

    def needed(names: Collection[str], index: Path | None) -> list[str]:
        del index
        chosen = choose_weights(names, layout, variant=variant, where=source) if weights else {}
        return needed_files(names, chosen, layout)

    folder = local_folder(source) or hub.download(source, revision, needed, index="config.json")
    if not weights:
        check_layout(_files(folder), layout, where=str(folder))
        return folder, folder
    return folder, folder / choose_weights(_files(folder), layout, variant=variant, where=str(folder))[""]


def read_family(index: Path | None) -> Family:
    """The family that a ``model_index.json`` names; without one Stable Diffusion."""
    stated = read_json(index) if index is not None and index.is_file() else {}
    return family_of(stated.get("_class_name"), absent=[name for name, of in stated.items() if of == [None, None]])


def read_index(index: Path, family: Family) -> dict[str, Any]:
    """What a ``model_index.json`` says apart from components that there are, or else the family's defaults."""
    stated = read_json(index) if index.is_file() else {}
    settings = {name: stated[name] for name, value in family.index.items() if isinstance(stated.get(name), type(value))}
    return {**family.index, **{name: value for name, value in settings.items() if not isinstance(value, list | tuple)}}


def _join(component: str, name: str) -> str:
    return f"{component}/{name}" if component else name


def _files(folder: Path) -> set[str]:
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return {file.relative_to(folder).as_posix() for file in files if file.is_file()}


def local_folder(source: str) -> Path | None:
    """The folder that is meant; None for a hub id.

    Raises:
        InputError: if it is neither, or a folder without a model.
    """
    folder = at_home(source)
    if not source:
        raise InputError("no model was given: model.path is empty, it should be a folder or a hub id")
    if folder.is_dir():
        if hint := no_model(folder):
            raise InputError(f"{source} {hint}")
        return folder
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source)
    if is_path(source) and not (is_id and hub.in_cache(source, INDEX)):
        raise InputError(f"{source}: no such folder{nearest(source)}")
    if not is_id:
        raise InputError(f"{source}: no such folder, and no hub id (organisation/name) either{nearest(source)}")
    return None


def check_layout(names: Collection[str], layout: Layout, *, where: str) -> None:
    """Raise InputError, naming ``where``, unless all files but weights are there."""
    required = list(layout.configs)
    for folder in layout.tokenizers:
        required.append(f"{folder}/tokenizer.json" if f"{folder}/tokenizer.json" in names else f"{folder}/vocab.json")
    missing = [name for name in required if name not in names]
    if missing and (hint := _meant_instead(at_home(where))):
        raise InputError(f"{where} is {hint}")
    if missing:
        raise InputError(f"{where} is no {layout.what}: it lacks {', '.join(missing)}")


def _meant_instead(folder: Path) -> str | None:
    """What a folder is that is no model but has one, and what to give in its place."""
    if (folder / "checkpoints").is_dir() or (folder / "config.yaml").is_file():
        if (folder / "model" / INDEX).is_file():
            return f"the folder of a run: its model is {folder / 'model'}"
        return "the folder of a run whose model is not finished: write it with `dreambooth-jax export`, or give another"
    if (folder / "snapshots").is_dir():
        name = folder.name.removeprefix("models--").replace("--", "/")
        found = sorted((folder / "snapshots").iterdir(), key=lambda one: one.stat().st_mtime)
        where = f", or {found[-1]}" if found else ""
        return f"the hub's cache of a repository: give its id, {name}{where}"
    cached = sorted(one.name for one in folder.glob("models--*--*")) if folder.is_dir() else []
    if cached:
        return (
            f"the hub's cache: give a repository's id, such as {cached[0].removeprefix('models--').replace('--', '/')}"
        )
    return None


class NoVariantError(InputError):
    """A model has no weights of the variant that is asked for."""


def choose_weights(names: Collection[str], layout: Layout, *, variant: str | None, where: str) -> dict[str, str]:
    """Of all file names of a model, each component's weights file or index of shards.

    Raises:
        InputError: naming ``where`` and what is missing there.
    """
    check_layout(names, layout, where=where)
    chosen = {
        component: _choose(component, kind, names, variant, where) for component, kind in layout.components.items()
    }
    if variant and not any(f".{variant}." in name for name in chosen.values()):
        raise NoVariantError(f"{where} has no weights of variant {variant}: leave it out to take the plain ones")
    return chosen


def _choose(component: str, kind: ComponentKind, names: Collection[str], variant: str | None, where: str) -> str:
    torch, flax = kind.stems
    pickled = _PICKLED.get(torch, torch)
    plain = [f"{torch}.safetensors", f"{torch}.safetensors.index.json", f"{flax}.msgpack", f"{pickled}.bin"]
    varied = [
        f"{torch}.{variant}.safetensors",
        f"{torch}.safetensors.index.{variant}.json",
        f"{flax}.{variant}.msgpack",
        f"{pickled}.{variant}.bin",
    ]
    for name in varied + plain:
        if _join(component, name) in names:
            return _join(component, name)
    place = _join(where, component) if component else where
    beside = sorted(name.removeprefix(_join(component, "")) for name in names if name.startswith(_join(component, "")))
    pattern = rf"{torch}\.([^.]+)\.safetensors|{torch}\.safetensors\.index\.([^.]+)\.json"
    variants = sorted({match[1] or match[2] for name in beside if (match := re.fullmatch(pattern, name))})
    if variants:
        raise InputError(
            f"{place} has its weights in variants only: choose variant={' or variant='.join(variants)} "
            "(in a run's settings, model.variant)"
        )
    if any(name.endswith(_PICKLES) for name in beside):
        raise InputError(
            f"{place} has its weights as PyTorch pickles of other names, or in parts: convert them once, where PyTorch "
            "is installed, with " + _convert(f"from_pretrained('{where}', use_safetensors=False)")
        )
    raise InputError(f"{place} has no weights: none of {', '.join(plain)}")


def _convert(load: str) -> str:
    return f"python -c \"from diffusers import StableDiffusionPipeline as P; P.{load}.save_pretrained('FOLDER')\""


def needed_files(names: Collection[str], weights: dict[str, str], layout: Layout) -> list[str]:
    """What of a repository is worth downloading: configurations, tokenizers, the chosen weights with their shards."""
    wanted = {INDEX, *layout.configs, *layout.optional, *weights.values()}
    for file in weights.values():
        if index := re.fullmatch(r"(.+)\.safetensors\.index(\.\w+)?\.json", file):
            stem, variant, number = re.escape(index[1]), re.escape(index[2] or ""), r"-\d+-of-\d+"
            shard = re.compile(rf"{stem}({variant}{number}|{number}{variant})\.safetensors")
            wanted.update(name for name in names if shard.fullmatch(name))
    tokens = [re.compile(rf"{re.escape(folder)}/[^/]+") for folder in layout.tokenizers]
    return sorted(name for name in names if name in wanted or any(pattern.fullmatch(name) for pattern in tokens))
