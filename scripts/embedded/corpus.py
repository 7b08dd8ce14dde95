# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The corpus: composed once, by as many processes as there are cores, and read as memory maps from then on.

corpus/pictures.npy   uint8 [n, s, s, 3]
      /captions.txt   one line each, written last: a corpus that has it is complete
"""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from .compose import Composer

_CHUNK = 256
_composer: Composer
_pictures: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Pictures and what they show."""

    pictures: UInt8[np.ndarray, "n s s 3"]
    captions: Sequence[str]


def load_or_compose(folder: Path, composer: Composer, *, count: int, workers: int) -> Corpus:
    """The corpus of a folder; composed where it is not there or not complete."""
    folder.mkdir(parents=True, exist_ok=True)
    captions, pictures = folder / "captions.txt", folder / "pictures.npy"
    if not captions.exists() or len(np.load(pictures, mmap_mode="r")) != count:
        lines = _compose(pictures, composer, count, workers)
        captions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Corpus(pictures=np.load(pictures, mmap_mode="r"), captions=captions.read_text(encoding="utf-8").splitlines())


def _compose(file: Path, composer: Composer, count: int, workers: int) -> list[str]:
    size = composer.grammar.size
    np.lib.format.open_memmap(file, "w+", np.uint8, (count, size, size, 3)).flush()
    chunks = range(0, count, _CHUNK)
    # spawned, not forked: the parent may have started JAX's threads
    with get_context("spawn").Pool(workers, _start, (composer, file)) as pool:
        return [caption for captions in pool.imap(_chunk, chunks) for caption in captions]


def _start(composer: Composer, file: Path) -> None:
    global _composer, _pictures
    _composer, _pictures = composer, np.load(file, mmap_mode="r+")


def _chunk(start: int) -> list[str]:
    captions = []
    for index in range(start, min(start + _CHUNK, len(_pictures))):
        _pictures[index], caption = _composer(index)
        captions.append(caption)
    return captions
