# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The diffusers layout: which files make up a model, here or on the hub, and how a folder is replaced safely.

    model_index.json   unet/  vae/  text_encoder/ (config.json and weights)   scheduler/  tokenizer/

Of each component's weights one file, or one index of shards, is taken: the variant that was asked for, else the plain
one; safetensors before msgpack. The same rule reads a local folder's names and a repository's.
"""

import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.weights.names import COMPONENTS

Stems = dict[str, str]
TORCH_STEMS: Stems = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
FLAX_STEMS: Stems = {"text_encoder": "flax_model", "unet": "diffusion_flax_model", "vae": "diffusion_flax_model"}

_LAYOUT = "a Stable Diffusion model in the diffusers layout"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def locate(source: str, *, revision: str | None = None, variant: str | None = None) -> tuple[Path, dict[str, Path]]:
    """Find a model, in a local folder or on the hub; of the hub's files only those that are needed are downloaded.

    Args:
        source: a folder, or a hub id such as ``org/name``. What exists locally is never looked up.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.

    Returns:
        The folder, and each component's weights file or index of shards.

    Raises:
        InputError: if there is no such model, or a file of it is missing; pickles count as missing.
    """
    folder = _folder(source, revision, partial(choose_weights, variant=variant, where=source))
    weights = choose_weights(_files(folder), variant=variant, where=str(folder))
    return folder, {component: folder / file for component, file in weights.items()}


def locate_configs(source: str, *, revision: str | None = None) -> Path:
    """:func:`locate` without weights: of a hub id only configurations and tokenizer are downloaded."""
    folder = _folder(source, revision, lambda names: {})
    check_layout(_files(folder), where=str(folder))
    return folder


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.glob("*/*") if file.is_file()}


def _folder(source: str, revision: str | None, choose: Callable[[Collection[str]], dict[str, str]]) -> Path:
    """Where a model is, after the download of a hub id's configurations and the weights that are chosen of it."""
    folder = Path(source).expanduser()
    if not source:
        raise InputError("no model was given: model.path is empty, it should be a folder or a hub id")
    if folder.is_file():
        raise InputError(
            f"{source} is a single file, not {_LAYOUT}: convert it once, where PyTorch is installed, with "
            + _convert(f"from_single_file('{source}')")
        )
    if not folder.is_dir():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
            raise InputError(f"{source}: no such folder, and no hub id (organisation/name) either")
        folder = _download(source, revision, choose)
    return folder


def check_layout(names: Collection[str], *, where: str) -> None:
    """Raise InputError, naming ``where``, unless all files but weights are there."""
    tokenizer = "tokenizer/tokenizer.json" if "tokenizer/tokenizer.json" in names else "tokenizer/vocab.json"
    required = [*(f"{component}/config.json" for component in COMPONENTS), "scheduler/scheduler_config.json", tokenizer]
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(f"{where} is not {_LAYOUT}: it lacks {', '.join(missing)}")


def choose_weights(names: Collection[str], *, variant: str | None, where: str) -> dict[str, str]:
    """Of all file names of a model, each component's weights file or index of shards.

    Raises:
        InputError: naming ``where`` and what is missing there.
    """
    check_layout(names, where=where)
    chosen = {component: _choose(component, names, variant, where) for component in COMPONENTS}
    if variant and not any(f".{variant}." in name for name in chosen.values()):
        raise InputError(f"{where} has no weights of variant {variant}: leave model.variant out to take the plain ones")
    return chosen


def _choose(component: str, names: Collection[str], variant: str | None, where: str) -> str:
    torch, flax = TORCH_STEMS[component], FLAX_STEMS[component]
    plain = [f"{torch}.safetensors", f"{torch}.safetensors.index.json", f"{flax}.msgpack"]
    varied = [
        f"{torch}.{variant}.safetensors",
        f"{torch}.safetensors.index.{variant}.json",
        f"{flax}.{variant}.msgpack",
    ]
    for name in varied + plain:
        if f"{component}/{name}" in names:
            return f"{component}/{name}"
    beside = sorted(name.removeprefix(f"{component}/") for name in names if name.startswith(f"{component}/"))
    pattern = rf"{torch}\.([^.]+)\.safetensors|{torch}\.safetensors\.index\.([^.]+)\.json"
    variants = sorted({match[1] or match[2] for name in beside if (match := re.fullmatch(pattern, name))})
    if variants:
        raise InputError(
            f"{where}/{component} has its weights in variants only: set model.variant to {' or '.join(variants)}"
        )
    if any(name.endswith(_PICKLES) for name in beside):
        raise InputError(
            f"{where}/{component} has its weights as PyTorch pickles only, which could run any code when opened: "
            "convert them once, where PyTorch is installed, with "
            + _convert(f"from_pretrained('{where}', use_safetensors=False)")
        )
    raise InputError(f"{where}/{component} has no weights: none of {', '.join(plain)}")


def _convert(load: str) -> str:
    return f"python -c \"from diffusers import StableDiffusionPipeline as P; P.{load}.save_pretrained('FOLDER')\""


def needed_files(names: Collection[str], weights: dict[str, str]) -> list[str]:
    """What of a repository is worth downloading: configurations, tokenizer, the chosen weights with their shards."""
    wanted = {"model_index.json", "scheduler/scheduler_config.json", *weights.values()}
    wanted |= {f"{component}/config.json" for component in COMPONENTS}
    for file in weights.values():
        if index := re.fullmatch(r"(.+)\.safetensors\.index(\.\w+)?\.json", file):
            stem, variant, number = re.escape(index[1]), re.escape(index[2] or ""), r"-\d+-of-\d+"
            shard = re.compile(rf"{stem}({variant}{number}|{number}{variant})\.safetensors")
            wanted.update(name for name in names if shard.fullmatch(name))
    return sorted(name for name in names if name in wanted or re.fullmatch(r"tokenizer/[^/]+", name))


def _download(repo: str, revision: str | None, choose: Callable[[Collection[str]], dict[str, str]]) -> Path:
    """Snapshot of a hub repository: from the hub, or what its cache holds where there is no network."""
    import huggingface_hub as hub  # late: a third of a second, and only for hub ids
    from huggingface_hub import errors

    # OSError and the HTTP client's own base class, whichever client this version of the library uses
    network_errors: tuple[type[Exception], ...] = (OSError, errors.HfHubHTTPError.__bases__[0])
    name = repo if revision is None else f"{repo} (revision {revision})"
    try:
        names = hub.HfApi().list_repo_files(repo, revision=revision)
    except errors.GatedRepoError as error:
        raise InputError(f"{repo} is gated: accept its terms on the hub and log in with `hf auth login`") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"{name}: neither a folder here nor on the hub; if it is private there, log in with `hf auth login`"
        ) from error
    except network_errors as error:
        cached = hub.try_to_load_from_cache(repo, "model_index.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        raise InputError(
            f"{name}: no folder here, not in the hub's cache, and the hub cannot be reached ({_first_line(error)})"
        ) from error
    files = needed_files(names, choose(names))
    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=files))
    except network_errors as error:
        raise InputError(f"downloading {name} broke off, run again to go on ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder that becomes ``target``, or whose entries take their places in it, when the block ends well.

    It lies on the target's disk, so that moving is renaming. If the block fails, on a full disk say, what ``target``
    held is untouched; entries of other names always are.

    Raises:
        InputError: if the disk is full, the place cannot be written to, or ``target`` is a file.
    """
    target = target.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: choose a folder to save to")
    try:
        home = target if target.is_dir() else target.parent
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=home, ignore_cleanup_errors=True) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            old.mkdir()
            yield new
            _take_places(new, target, old)
    except OSError as error:
        raise InputError(f"{target} could not be saved, what was there before still is: {error}") from error


def _take_places(new: Path, target: Path, old: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    try:
        for entry in sorted(new.iterdir()):
            if (target / entry.name).exists():
                (target / entry.name).rename(old / entry.name)
            entry.rename(target / entry.name)
    finally:
        for entry in old.iterdir():  # interrupted between the two
            if not (target / entry.name).exists():
                entry.rename(target / entry.name)
