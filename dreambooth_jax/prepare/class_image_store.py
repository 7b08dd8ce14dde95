# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The folder of class images: pictures, and a manifest with a line for each that was made, kept or rejected.

So a broken-off run goes on with the next number, and a kept picture that was lost or damaged is made again from its
seed. To be rid of one, delete its line, too. Pictures that are not in the manifest are the owner's own, and count.

    class_images/000000.png ...
    class_images/manifest.jsonl         {"file", "status": kept | black | duplicate, "seed", "prompt", ..., "model"}
    class_images/.made/000004.png ...   what other processes made, until process 0 has looked at it
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax import distributed
from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.data import images
from dreambooth_jax.data.loss_masks import masks_among
from dreambooth_jax.data.png import save_png
from dreambooth_jax.data.sources import is_picture
from dreambooth_jax.errors import InputError
from dreambooth_jax.prepare import screening
from dreambooth_jax.prepare.multihost import wait_until

MANIFEST = "manifest.jsonl"
MADE = ".made"
NAME = re.compile(r"\d{6,}\.png")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides how class images look, seeds apart. All pictures of a manifest share one recipe."""

    prompt: str
    sampling: SamplingConfig
    model: str = ""
    """Fingerprint of the weights."""

    def record(self) -> dict[str, Any]:
        """What a line of the manifest says of it."""
        return {"prompt": self.prompt} | asdict(self.sampling) | {"model": self.model}


@dataclass
class ClassImageStore:
    """The folder, as process 0 fills it.

    Attributes:
        seen: signatures of the pictures that are there.
        refused: pictures refused since the last that was kept.
        patience: how many of them are too many.
    """

    folder: Path
    recipe: Recipe
    seed: int
    patience: int
    seen: list[screening.Signature] = field(default_factory=list)
    refused: int = 0

    def open(self, present: list[str]) -> None:
        """Look at what is there."""
        self.clear()  # of a run that was killed
        if distributed.is_main():
            self.seen = [screening.signature(np.asarray(images.decode(self.folder / name))) for name in present]

    @property
    def exhausted(self) -> bool:
        """Nothing usable came for too long."""
        return self.refused >= self.patience

    def record(self, number: int, status: str) -> dict[str, Any]:
        """A line of the manifest."""
        return {"file": f"{number:06d}.png", "status": status, "seed": self.seed + number} | self.recipe.record()

    def stage(self, number: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Put a picture where process 0 finds it."""
        record = self.record(number, "kept")
        save_png(self.folder / MADE / record["file"], picture, record)

    def collect(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """What another process staged.

        Raises:
            InputError: if it does not turn up.
        """
        path = self.folder / MADE / f"{number:06d}.png"
        if not wait_until(path.exists):
            raise InputError(f"{path}, which another host wrote, has not appeared here")
        return np.asarray(images.decode(path))

    def add(self, number: int, picture: UInt8[np.ndarray, "h w 3"]) -> int:
        """Keep or refuse a picture, on disk at once; 1 if it is kept."""
        status = judge(picture, self.seen)
        record = self.record(number, status)
        kept = status == "kept"
        if kept:
            staged = self.folder / MADE / record["file"]
            record["file"] = self._free(number)
            if staged.exists():
                os.replace(staged, self.folder / record["file"])
            else:
                save_png(self.folder / record["file"], picture, record)
            self.seen.append(screening.signature(picture))
        self.refused = 0 if kept else self.refused + 1
        append_line(self.folder, record)
        return int(kept)

    def _free(self, number: int) -> str:
        """A name that is not taken: one of this kind may be the owner's own picture."""
        while (self.folder / f"{number:06d}.png").exists():
            number += 1
        return f"{number:06d}.png"

    def clear(self) -> None:
        """Remove what was staged."""
        if distributed.is_main():
            shutil.rmtree(self.folder / MADE, ignore_errors=True)


def judge(picture: UInt8[np.ndarray, "h w 3"], seen: list[screening.Signature]) -> str:
    """``kept``, or why not."""
    if screening.is_black(picture):
        return "black"
    mark = screening.signature(picture)
    return "duplicate" if any(screening.is_duplicate(mark, other) for other in seen) else "kept"


def usable_pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder; masks that lie beside theirs are none."""
    names = {path.name for path in folder.glob("*") if is_picture(path)}
    return sorted(names - {*masks_among(names)})


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Lines of the manifest; a torn last one, from a run that was killed, and what is no such line are left out."""
    path = folder / MANIFEST
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and type(line.get("seed")) is int and NAME.fullmatch(str(line.get("file"))):
            lines.append(line | {"status": line.get("status")})
    return lines


def lost_pictures(
    folder: Path, lines: list[dict[str, Any]], recipe: Recipe, *, num_images: int
) -> list[dict[str, Any]]:
    """Lines of pictures that were kept, by this recipe, and are not there any more, or cannot be read.

    Args:
        folder: of the pictures.
        lines: of its manifest.
        recipe: of pictures that can be made again.
        num_images: pictures to have; of names behind them nothing is needed.
    """
    kept = {line["file"]: line for line in lines if line["status"] == "kept" and not changed(line, recipe)}
    wanted = sorted(kept.keys() | usable_pictures(folder))[:num_images]
    return [kept[name] for name in wanted if name in kept and not readable(folder / name)]


def readable(path: Path) -> bool:
    """Whether a picture can be decoded to its end."""
    try:
        images.decode(path)
    except InputError:
        return False
    return True


def append_line(folder: Path, record: dict[str, Any]) -> None:
    """Add a line, after its picture is on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST
    # A run that was killed may have left half a line: end it, so that it spoils no second one.
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def check_recipe(folder: Path, lines: list[dict[str, Any]], recipe: Recipe) -> None:
    """Raise InputError if pictures that are still there were made otherwise."""
    for line in lines:
        if line["status"] != "kept" or not (folder / line["file"]).exists():
            continue
        for key, (was, wanted) in changed(line, recipe).items():
            raise InputError(
                f"{folder} holds class images made with {key} {was!r}, not {wanted!r}: choose another "
                "folder (prior.class_images), or delete it to make them anew"
            )


def changed(line: dict[str, Any], recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Of a line's settings, those that are not the recipe's: what they were, and what they are now.

    An option of the samplers that a manifest does not know, because it is older, had its default.
    """
    sides = {"height": line["size"], "width": line["size"]} if "size" in line else {}  # versions before height
    made = asdict(SamplingConfig()) | sides | line
    return {key: (made.get(key), value) for key, value in recipe.record().items() if made.get(key) != value}
