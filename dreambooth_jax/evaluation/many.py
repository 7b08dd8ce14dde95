# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of many prompts, several prompts in one batch, so that all devices have work where each prompt has a few
pictures. What lies in the folder is not made again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax.evaluation.drawing import Batch, PictureFolder, Place
from dreambooth_jax.evaluation.samples import SampleSettings
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.progress import Progress, announced
from dreambooth_jax.trees import Tree

Picture = UInt8[np.ndarray, "_ _ 3"]


def draw_missing(
    pipe: Pipeline,
    settings: SampleSettings,
    path: Path,
    *,
    params: Tree,
    model: str,
    at_once: Callable[[int], int],
    what: str = "pictures",
) -> list[list[Picture]]:
    """All pictures of each prompt; picture i of every prompt has seed ``settings.seed + i``.

    Args:
        pipe: the model.
        settings: what to draw.
        path: folder that they are kept in, of these settings alone.
        params: of the whole model.
        model: its name.
        at_once: so many pictures to make -> how many in a batch. Asked only if any is missing.
        what: they are, for the bar.
    """
    folder = PictureFolder(path, goes_on=True)
    seeds = [settings.seed + i for i in range(settings.num_images)]
    wanted = [(row, seed) for row in range(len(settings.prompts)) for seed in seeds]
    found = {key: picture for key in wanted if (picture := folder.find(*key)) is not None}
    missing = [key for key in wanted if key not in found]
    if missing:
        with Progress(total=len(wanted), initial=len(found), desc=what, unit="picture") as bar:
            with announced("compiling the sampler", usually="a minute or so the first time"):
                size = at_once(len(wanted))  # also where few are missing: the same program, the same picture
            for start in range(0, len(missing), size):
                some = missing[start : start + size]
                filled = some + some[-1:] * (size - len(some))
                pictures = pipe(
                    [settings.prompts[row] for row, _ in filled],
                    seed=[seed for _, seed in filled],
                    sampling=settings.sampling,
                    params=params,
                )
                for position, ((row, seed), picture) in enumerate(zip(some, pictures)):
                    batch = Batch(row, [seed], picture[None], Place(size, position))
                    folder.save(batch, settings, model=model, fingerprint=pipe.components.fingerprint)
                    found[row, seed] = picture
                bar.update(len(some))
    return [[found[row, seed] for seed in seeds] for row in range(len(settings.prompts))]
