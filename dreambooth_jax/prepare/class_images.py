# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Class images: what the frozen model believes the class to look like (x_pr of arXiv 2208.12242, section 3.2).

A folder of PNGs and a manifest. Picture number i is made with seed + i; the manifest has a line for each that was made,
kept or rejected, so that a broken-off run goes on with the next number, and a picture that its owner deletes is
replaced by a new one. Pictures that are not in the manifest are the owner's own, and count.

    class_images/000000.png ...
    class_images/manifest.jsonl    {"file", "status": kept | black | duplicate, "seed", "prompt", ..., "model"}
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from dreambooth_jax.data import images, screening
from dreambooth_jax.data.png import save_png
from dreambooth_jax.data.sources import PICTURE
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides how class images look, seeds apart. All pictures of a manifest share one recipe."""

    prompt: str
    negative_prompt: str = ""
    steps: int = 50
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    size: int = 512
    """Pixels of a side."""
    model: str = ""
    """Fingerprint of the weights."""


def ensure_class_images(
    pipe: Pipeline,
    folder: str | Path,
    recipe: Recipe,
    *,
    num_images: int,
    seed: int = 0,
    batch_size: int = 4,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Fill a folder up to ``num_images`` pictures; do nothing if they are there.

    Args:
        pipe: the frozen model.
        folder: made if it is not there.
        recipe: what to make.
        num_images: pictures to have, the owner's own included.
        seed: of picture 0.
        batch_size: pictures made at once. Always so many, so that the sampler compiles once.
        should_stop: asked between batches.

    Returns:
        How many are there now: fewer than asked for only if ``should_stop`` said so.

    Raises:
        InputError: if the folder's pictures were made by another recipe, or the model makes nothing usable.
    """
    folder = Path(folder)
    lines = read_manifest(folder)
    check_recipe(folder, lines, recipe)
    present = usable_pictures(folder)
    if len(present) >= num_images:
        return len(present)
    seen = [screening.fingerprint(np.asarray(images.decode(folder / name))) for name in present]
    number = 1 + max((line["seed"] - seed for line in lines), default=-1)
    refused, patience = 0, max(16, num_images)
    with tqdm(total=num_images, initial=len(seen), desc="class images", unit="image", dynamic_ncols=True) as bar:
        while len(seen) < num_images and not should_stop():
            seeds = [seed + number + i for i in range(batch_size)]
            number += batch_size
            for one_seed, picture in zip(seeds, make(pipe, recipe, seeds)):
                if len(seen) == num_images:
                    break
                status = judge(picture, seen)
                name = f"{one_seed - seed:06d}.png"
                record = {"file": name, "status": status, "seed": one_seed} | asdict(recipe)
                if status == "kept":
                    save_png(folder / name, picture, record)
                    seen.append(screening.fingerprint(picture))
                    bar.update(1)
                refused = 0 if status == "kept" else refused + 1
                append_line(folder, record)
                if refused >= patience:
                    raise InputError(
                        f"the last {refused} pictures of {recipe.prompt!r} were all {status}: the model or the prompt "
                        "is broken (float16 weights that overflow?); make one with dreambooth-jax sample and look"
                    )
    return len(seen)


def make(pipe: Pipeline, recipe: Recipe, seeds: list[int]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """One batch of pictures."""
    yield from pipe(
        [recipe.prompt] * len(seeds),
        negative_prompt=recipe.negative_prompt,
        seed=seeds,
        steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        sampler=recipe.sampler,
        height=recipe.size,
        width=recipe.size,
    )


def judge(picture: UInt8[np.ndarray, "h w 3"], seen: list[screening.Fingerprint]) -> str:
    """``kept``, or why not."""
    if screening.is_black(picture):
        return "black"
    mark = screening.fingerprint(picture)
    return "duplicate" if any(screening.is_duplicate(mark, other) for other in seen) else "kept"


def usable_pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder."""
    return sorted(path.name for path in folder.glob("*") if PICTURE.fullmatch(path.name) and path.is_file())


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Lines of the manifest; a torn last one, from a run that was killed, is left out."""
    path = folder / MANIFEST
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


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
    wanted = asdict(recipe)
    for line in lines:
        if line["status"] != "kept" or not (folder / line["file"]).exists():
            continue
        different = [key for key, value in wanted.items() if line.get(key) != value]
        if different:
            key = different[0]
            raise InputError(
                f"{folder} holds class images made with {key} {line.get(key)!r}, not {wanted[key]!r}: choose another "
                "folder (prior.class_images), or delete it to make them anew"
            )
