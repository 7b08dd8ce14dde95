# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of all prompts into a folder, and their grid."""

import dataclasses
import logging
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from dreambooth_jax.config.drawing import DrawingConfig

if TYPE_CHECKING:
    from dreambooth_jax.cli.watching import Watcher
    from dreambooth_jax.evaluation.drawing import Batch, PictureFolder, Place
    from dreambooth_jax.evaluation.samples import SampleSettings
    from dreambooth_jax.runs import OpenedModel

log = logging.getLogger(__name__)

SHOWN = 16
"""Prompts, and pictures of each, that the grid shows at most."""


def draw(
    model: "OpenedModel",
    settings: "SampleSettings",
    folder: "PictureFolder",
    *,
    place: "Place | None" = None,
    watcher: "Watcher | None" = None,
) -> None:
    """Make and save all pictures, then the grid.

    Args:
        model: the model.
        settings: what to draw.
        folder: where to.
        place: that of ``draw_batches``.
        watcher: looks on.
    """
    import numpy as np

    from dreambooth_jax.evaluation.samples import save_grid
    from dreambooth_jax.pipeline.sizes import settled
    from dreambooth_jax.prepare.batch_size import pictures_at_once
    from dreambooth_jax.progress import Progress, announced

    total = len(settings.prompts) * settings.num_images
    rows: list[list] = [[] for _ in settings.prompts[:SHOWN]]
    done = 0
    try:
        with Progress(total=total, desc="pictures", unit="picture") as bar:
            if watcher:
                watcher.bar = bar
            with announced("compiling the sampler", usually="a minute or so the first time"):
                at_once = pictures_at_once(
                    model.pipe,
                    settled(model.pipe, DrawingConfig.of(settings.sampling), settings.given),
                    count=settings.num_images,
                    control=settings.given.get("control", ()),
                )
                given: dict[str, Any] = {"at_once": at_once, "place": place, "folder": folder, "on_step": watcher}
                batches = _drawn(model, settings, **given)
                first = next(batches)
            for batch, made_with in chain([first], batches):
                folder.save(batch, made_with, model=model.name, fingerprint=model.pipe.components.fingerprint)
                done += len(batch.seeds)
                bar.update(len(batch.seeds))
                if batch.row < SHOWN:
                    rows[batch.row].extend(batch.pictures[: SHOWN - len(rows[batch.row])])
    finally:
        if done < total:
            log.info("%d of %d pictures are made; they are in %s", done, total, folder.path)
    shown = dataclasses.replace(settings, prompts=settings.labels[:SHOWN])
    some = f", {sum(map(len, rows))} of {total} pictures" if sum(map(len, rows)) < total else ""
    save_grid(folder.grid, [np.stack(row) for row in rows], shown, title=model.name + some)


def _drawn(model: "OpenedModel", settings: "SampleSettings", **given: Any) -> "Iterator[tuple[Batch, SampleSettings]]":
    """Batches of all prompts, and what each was made with: those with the same adapters one after the other.

    Args:
        model: to which each prompt's own adapters are added.
        settings: what to draw.
        given: the other arguments of ``draw_batches``.

    Raises:
        InputError: before the first picture, if an adapter is for another model.
    """
    from dreambooth_jax.evaluation.drawing import draw_batches
    from dreambooth_jax.runs import check_loras, with_loras

    groups: dict[tuple[str, ...], list[int]] = {}
    for row, lora in enumerate(settings.loras or [()] * len(settings.prompts)):
        groups.setdefault(tuple(lora), []).append(row)
    for lora in groups:
        check_loras(model, lora)
    for lora, rows in groups.items():
        own = with_loras(model, lora) if lora else model
        made_with = dataclasses.replace(settings, adapters=own.adapters, words=own.pipe.word_files)
        for batch in draw_batches(own.pipe, made_with, rows=rows, params=own.params, **given):
            yield batch, made_with
        del own  # before the next one is made
