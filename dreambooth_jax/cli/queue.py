# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --queue FOLDER``: files with prompts, drawn one after the other into a folder each.

A folder knows what it was made of (``job.json``). Called again, what is done is skipped, and what was interrupted goes
on where it stopped; a file that has changed, or other settings, begin a folder of their own: ``dogs``, ``dogs-2``, ...
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prompts.limits import checked_prompts
from dreambooth_jax.text_files import read_lines

if TYPE_CHECKING:
    from dreambooth_jax.cli.loras import Bare
    from dreambooth_jax.evaluation.drawing import PictureFolder
    from dreambooth_jax.evaluation.samples import SampleSettings
    from dreambooth_jax.runs import OpenedModel

log = logging.getLogger(__name__)


def queued_files(entries: Sequence[str]) -> list[Path]:
    """The files of a queue: files, and the ``.txt`` files of folders by name.

    Raises:
        InputError: if there is none, or no such file.
    """
    files: list[Path] = []
    for path in map(Path, entries):
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() == ".txt") if path.is_dir() else [path]
        if not inside:
            raise InputError(f"queue: {path} has no .txt files, with a prompt on each line")
        files += inside
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise InputError(f"queue: there is no {missing[0]}")
    return files


def queued_jobs(options: SampleOptions, told: Collection[str]) -> dict[Path, list[str]]:
    """Prompts of each file of a queue.

    Raises:
        InputError: if there is none, a file has none, or the queue is given beside what it does not go with.
    """
    beside = sorted({"prompts", "prompts_file", "like", "grid"} & {*told})
    if beside:
        raise InputError(f"{beside[0]} and queue are both given: leave one out, or put the prompts into files")
    jobs = {path: checked_prompts(read_lines(path)) for path in queued_files(options.queue)}
    empty = [str(path) for path, prompts in jobs.items() if not prompts]
    if empty:
        raise InputError(f"queue: {empty[0]} has no prompt: write one on each line, or take it out")
    return jobs


def work_off(
    jobs: "Mapping[Path, Bare]",
    options: SampleOptions,
    settings: "SampleSettings",
    base: Path,
    model: "OpenedModel",
    draw: Callable[["SampleSettings", "PictureFolder"], None],
) -> None:
    """Draw what is not done yet, file by file, and print each file's grid.

    Args:
        jobs: prompts by file, with the adapters of each.
        options: of the command line.
        settings: of all.
        base: folder of all.
        model: that draws.
        draw: draws settings into a folder.
    """
    from dreambooth_jax.evaluation.drawing import PictureFolder
    from dreambooth_jax.evaluation.job_folders import job_folder
    from dreambooth_jax.weights.adapters.asked import hashes_of

    shared = {name: getattr(options, name) for name in ("image", "mask", "control", "vae", "height", "width")}
    shared |= {"model": model.name, "fingerprint": model.pipe.components.fingerprint}
    for number, (path, (prompts, loras)) in enumerate(jobs.items(), 1):
        job = dataclasses.replace(settings, prompts=prompts, loras=loras)
        own = {"lora": [hashes_of(lora) for lora in loras]} if loras else {}
        about = {"prompts": prompts, "num_images": job.num_images, "seed": job.seed} | job.metadata() | shared
        folder = PictureFolder(job_folder(base, path.stem, about | own), goes_on=True)
        if folder.grid.exists():
            log.info("%s is done: %s", path, folder.grid)
        else:
            log.info("%s, %d of %d", path, number, len(jobs))
            draw(job, folder)
        print(folder.grid)
