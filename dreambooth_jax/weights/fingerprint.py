# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A short name for the weights of a folder: which model made a class image, a cached latent, a checkpoint."""

import hashlib
from pathlib import Path

PARTS = ("text_encoder", "unet", "vae", "scheduler", "tokenizer")
SUFFIXES = (".safetensors", ".msgpack", ".json", ".txt")
CHUNK = 4096
N_CHUNKS = 256


def fingerprint(folder: str | Path) -> str:
    """16 hexadecimal digits that change when the model does, wherever the folder lies.

    Files are sampled, 256 stretches of 4 KiB each, and small ones read whole: training changes every weight, so that
    reading gigabytes would tell no more.
    """
    digest = hashlib.sha256()
    for part in PARTS:
        for path in sorted((Path(folder) / part).glob("*")):
            if path.suffix in SUFFIXES:
                digest.update(f"{part}/{path.name} {path.stat().st_size}\n".encode())
                digest.update(_sample(path))
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
