# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A run of ``dreambooth-jax train`` in this process, and what can be told of it afterwards.

Stages are read from what the run wrote, so that it is the very run that users start:

    start         until the first class image is there: imports, weights, the sampler's program
    class images  until the last one
    before steps  until the first step is done: latents, texts, the step's program
    steps         until the last one is logged, with what they wait for
    after steps   checkpoint and model folder
"""

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from real_size.stages import draw_photo

EXAMPLES = 2
"""Of a step: one of the subject, one of the class."""


def draw_photos(folder: Path, n: int, pixels: int) -> Path:
    """n pictures of soft noise."""
    folder.mkdir()
    for number in range(n):
        drawn = Path(draw_photo(str(folder / f"photo{number}"), pixels))
        (drawn / "0.png").rename(folder / f"{number}.png")
        drawn.rmdir()
    return folder


def train(
    model: Path, pixels: int, *, settings: dict[str, Any], photos: int, class_photos: int, plan: bool
) -> dict[str, Any]:
    """A run to its end in a folder that is gone afterwards.

    Args:
        model: what to personalise.
        pixels: of a picture.
        settings: that differ from the defaults.
        photos: how many of the subject.
        class_photos: how many of the class; 0 has the run make them.
        plan: also say what ``dreambooth-jax plan`` predicts.
    """
    begin = time.time()
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        work = Path(scratch)
        given = {
            "run_dir": work / "run",
            "model.path": model,
            "data.instance_images": draw_photos(work / "photos", photos, pixels),
            "data.class_noun": "dog",
            "data.resolution": pixels,
            "samples.every": 0,
        }
        if class_photos:
            given["prior.class_images"] = draw_photos(work / "class", class_photos, pixels)
        words = [
            f"{key}={json.dumps(value) if isinstance(value, bool) else value}"
            for key, value in (given | settings).items()
        ]
        from dreambooth_jax import cli

        cli.run(["train", *words])
        found = told(work / "run", begin, time.time()) | {"reported_bytes": reported()}
        return found | (predicted(words) if plan else {})


def told(run: Path, begin: float, end: float) -> dict[str, Any]:
    """Losses, seconds, and a digest of the trained network."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    counts = [line["step"] - before for line, before in zip(lines, [1, *(line["step"] for line in lines)])]
    seconds = [EXAMPLES * n / line["images_per_second"] for n, line in zip(counts, lines) if n]
    per_step = sorted(EXAMPLES / line["images_per_second"] for n, line in zip(counts, lines) if n)
    made = sorted(file.stat().st_mtime for file in (run / "class_images").glob("*.png"))
    last = (run / "metrics.jsonl").stat().st_mtime
    moments = [begin, *([made[0], made[-1]] if made else [begin, begin]), last - sum(seconds), last, end]
    names = ("start", "class images", "before steps", "steps", "after steps")
    digest = hashlib.sha256()
    for file in sorted((run / "model" / "unet").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return {
        "losses": [line["loss"] for line in lines],
        "median": per_step[len(per_step) // 2],
        "stages": {name: b - a for name, a, b in zip(names, moments, moments[1:])},
        "seconds": end - begin,
        "digest": digest.hexdigest(),
    }


def reported() -> int | None:
    """The largest memory that the device has held, where it keeps count."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def predicted(words: list[str]) -> dict[str, Any]:
    """Bytes of each part of the run as planned; it finds the programs that the run has compiled."""
    import dreambooth_jax as dbx

    plan = dbx.plan(dbx.load_config(None, words))
    return {
        "predicted_bytes": plan.peak,
        "predicted": {
            "steps": max(one.peak for one in plan.steps),
            "class images": max(one.peak for one in plan.draws),
        },
    }
