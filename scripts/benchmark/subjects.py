# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Photos of several subjects to a LoRA each: one process for all, beside one for each, which starts and compiles anew.

Both are the command that users have, from its start to the files of the result. Class images are there before.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmark.measure import OURS
from benchmark.whole import measure_process

PHOTOS = 4


def subjects_name(count: int, steps: int) -> str:
    """As rows of the table are called."""
    return f"{count} subjects, {steps} steps"


def subject_rows(model: Path, *, pixels: int, count: int, steps: int, rank: int) -> Iterator[Mapping[str, Any]]:
    """Together, then one after the other: the sum of seconds, the highest peak."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ["class_images", *(f"subjects/dog{number}" for number in range(count))]:
            draw(folder / name, pixels)
        common = [
            *(f"model.path={model}", "data.class_noun=dog", f"data.resolution={pixels}", "adapter.kind=lora"),
            *(f"adapter.rank={rank}", f"prior.class_images={folder / 'class_images'}", f"prior.num_images={PHOTOS}"),
            *(f"train.steps={steps}", f"checkpoint.every={steps}", "samples.every=0", "train.batch_size=1"),
        ]

        def run(name: str, photos: str) -> dict[str, float]:
            words = ["-m", "dreambooth_jax", "train", *common, photos, f"run_dir={folder / 'runs' / name}"]
            return measure_process(name, words, folder / "compiled" / name)

        alone = [
            run(f"dog{number}", f"data.instance_images={folder / f'subjects/dog{number}'}") for number in range(count)
        ]
        together = run("together", f"data.subjects={folder / 'subjects'}")
    summed = {key: sum(one[key] for one in alone) for key in ("median", "best", "processor")}
    summed["peak_bytes"] = max(one["peak_bytes"] for one in alone)
    for peer, found in ((OURS, together), ("in turn", summed)):
        ratio = together["median"] / found["median"]
        yield (
            {"work": subjects_name(count, steps), "peer": peer, "first_call": found["median"]}
            | found
            | {"ours_over_peer": ratio}
        )


def draw(folder: Path, pixels: int) -> None:
    """Pictures of noise, the same every time."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        picture = random.integers(0, 255, (pixels, pixels, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
