# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A short name for a model, by what its files hold: which one made a class image, a cached latent, a checkpoint."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dreambooth_jax.models.families import Family
from dreambooth_jax.weights.files import read_index
from dreambooth_jax.weights.folders import SCHEDULER

CHUNK = 4096
N_CHUNKS = 256


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which model it is."""

    folder: Path
    """Where it was read from, or the single file; for a hub id its snapshot in the cache."""
    fingerprint: str = ""
    """Of the files that are read; empty where no weights were."""
    as_found: bool = True
    """Whether it is what its folder says: nothing swapped, nothing told of it."""

    def known_as(self, stored: Collection[str | None]) -> str:
        """The fingerprint to compare with stored ones: that of version 0.1.0, if it is among them and ours is not."""
        if not (stored and self.as_found and self.folder.is_dir()) or self.fingerprint in stored:
            return self.fingerprint
        earlier = folder_fingerprint(self.folder)
        return earlier if earlier in stored else self.fingerprint


def fingerprint(folder: Path, family: Family, weights: dict[str, Path]) -> str:
    """16 hexadecimal digits that change when the model does, wherever the folder lies; files that are not read do not
    matter.

    Files are sampled, 256 stretches of 4 KiB each, and small ones read whole: training changes every weight, so that
    reading gigabytes would tell no more.

    Args:
        folder: of the model.
        family: says which components and tokenizers it has.
        weights: each component's file or index of shards that is read.
    """
    parts: dict[str, list[Path]] = {}
    for component in family.components:
        file = weights[component]
        shards = {file.parent / name for name in read_index(file).values()} if ".index." in file.name else set()
        parts[component] = [folder / component / "config.json", file, *shards]
    parts["scheduler"] = [folder / SCHEDULER]
    for tokenizer in family.text_encoders.values():
        parts[tokenizer] = [file for file in (folder / tokenizer).glob("*") if file.suffix in (".json", ".txt")]
    return _digest(parts.items())


def file_fingerprint(file: Path, tokenizers: Iterable[Path]) -> str:
    """Of a model in a single file, whatever it is called, and its tokenizers."""
    tokens = sorted(one for folder in tokenizers for one in folder.glob("*") if one.suffix in (".json", ".txt"))
    digest = hashlib.sha256(f"{file.stat().st_size}\n".encode() + _sample(file))
    digest.update(_digest([("tokenizer", tokens)]).encode())
    return digest.hexdigest()[:16]


def files_fingerprint(settings: Path, file: Path) -> str:
    """Of one network: its ``config.json``, and its weights file or index of shards."""
    shards = {file.parent / name for name in read_index(file).values()} if ".index." in file.name else set()
    return _digest([("", [settings, file, *shards])])


def told_of(known: str, told: Mapping[str, object]) -> str:
    """The fingerprint of a model of which something else is told than it says itself; of nothing, its own."""
    if not told:
        return known
    return hashlib.sha256(f"{known} {sorted(told.items())}".encode()).hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """What version 0.1.0 took for the fingerprint of a Stable Diffusion: of whatever lies in its folders. Equal to
    :func:`fingerprint` where nothing lies there that is not read."""
    suffixes = (".safetensors", ".msgpack", ".json", ".txt")
    parts = ("text_encoder", "unet", "vae", "scheduler", "tokenizer")
    return _digest((part, [file for file in (folder / part).glob("*") if file.suffix in suffixes]) for part in parts)


def _digest(parts: Iterable[tuple[str, list[Path]]]) -> str:
    digest = hashlib.sha256()
    for part, files in parts:
        for file in sorted(files):
            digest.update(f"{part}/{file.name} {file.stat().st_size}\n".encode())
            digest.update(_sample(file))
    return digest.hexdigest()[:16]


def _sample(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= CHUNK * N_CHUNKS:
            return file.read()
        chunks = []
        for i in range(N_CHUNKS):
            file.seek(i * (size - CHUNK) // (N_CHUNKS - 1))
            chunks.append(file.read(CHUNK))
        return b"".join(chunks)
