# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Class images: what the frozen model believes the class to look like (x_pr of arXiv 2208.12242, section 3.2).

Picture number i is made with seed + i, until there are enough usable ones. Several processes share the numbers out, a
batch each, and process 0 looks at what they made in the order of the numbers: so what is kept does not depend on who
made it.
"""

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from dreambooth_jax import distributed
from dreambooth_jax.data.png import save_png
from dreambooth_jax.errors import InputError
from dreambooth_jax.locks import locked
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.class_image_store import (
    ClassImageStore,
    Recipe,
    check_recipe,
    lost_pictures,
    read_manifest,
    usable_pictures,
)
from dreambooth_jax.progress import Progress, announced

log = logging.getLogger(__name__)


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
        seed: of picture 0. Where pictures of other seeds are there, new ones begin with the first seed that has none.
        batch_size: pictures that this process makes at once. Always so many, so that the sampler compiles once.
        should_stop: asked between batches; of several processes all must get the same answer.

    Returns:
        How many are there now: fewer than asked for only if ``should_stop`` said so.

    Raises:
        InputError: if the folder's pictures were made by another recipe, if another run makes some there right now, or
            if the model makes nothing usable.
    """
    folder = Path(folder)
    check_recipe(folder, read_manifest(folder), recipe)
    # What process 0 sees is what counts: the view of another host may be older.
    (count,) = _of_main(len(usable_pictures(folder)))
    if count >= num_images:
        return count
    with locked(folder, key="prior.class_images"):  # several runs may share it
        return _fill(pipe, folder, recipe, num_images, seed, batch_size, should_stop)


def _fill(
    pipe: Pipeline,
    folder: Path,
    recipe: Recipe,
    num_images: int,
    seed: int,
    batch_size: int,
    should_stop: Callable[[], bool],
) -> int:
    lines, present = read_manifest(folder), usable_pictures(folder)
    count, number, seeds_used = _of_main(len(present), _next_number(lines), _seeds_used(lines, seed))
    _announce(folder, lines, present, num_images)
    store = ClassImageStore(folder, recipe, seed=seed + seeds_used - number, patience=max(16, num_images))
    store.open(present)
    hidden = not distributed.is_main()
    with (
        announced("making class images", usually="a minute before the first, which compiles the sampler"),
        Progress(total=num_images, initial=count, desc="class images", unit="image", disable=hidden) as bar,
    ):
        while count < num_images and not should_stop():
            n_makers = min(jax.process_count(), -(-(num_images - count) // batch_size))
            numbers = range(number, number + n_makers * batch_size)
            for picture_number, picture in made_by_all(pipe, store, numbers, batch_size):
                store.add(picture_number, picture)
                if len(store.seen) == num_images or store.exhausted:
                    break
            bar.update(len(store.seen) - bar.n)
            store.clear()
            number = numbers.stop
            count, exhausted = _of_main(len(store.seen), store.exhausted)
            if exhausted:
                raise _nothing_usable(store)
    return count


def _nothing_usable(store: ClassImageStore) -> InputError:
    return InputError(
        f"the last {store.patience} pictures of {store.recipe.prompt!r} were all black or duplicates: the model or the "
        "prompt is broken (float16 weights that overflow?); make one with dreambooth-jax sample and look"
    )


def restore_class_images(
    pipe: Pipeline,
    folder: Path,
    recipe: Recipe,
    *,
    num_images: int,
    batch_size: Callable[[], int],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Make kept pictures again that were lost or damaged, from the seeds that the manifest has. Process 0 does.

    Args:
        pipe: the frozen model.
        folder: of the pictures.
        recipe: of the pictures; those of another are let be.
        num_images: pictures to have; of names behind them nothing is needed.
        batch_size: asked, if there are any, for the batch that a whole folder is made in: in one of another size
            pictures may differ in their last bits.
        should_stop: asked between batches; of several processes all must get the same answer.

    Returns:
        Whether all are there: not if ``should_stop`` said so before.
    """
    lost = []
    if distributed.is_main():
        lost = lost_pictures(folder, read_manifest(folder), recipe, num_images=num_images)
    (count,) = _of_main(len(lost))
    if not count:
        return True
    size = batch_size()
    if lost:
        names = ", ".join(line["file"] for line in lost[:5]) + (f" and {count - 5} more" if count > 5 else "")
        log.warning("%s: lost or damaged, so made again from the seeds in the manifest: %s", folder, names)
    for start in range(0, count, size):
        if should_stop():
            return False
        some = lost[start : start + size]
        if some:
            seeds = [line["seed"] for line in some]
            for line, picture in zip(some, make(pipe, recipe, seeds + seeds[:1] * (size - len(seeds)))):
                save_png(folder / line["file"], picture, line)
    distributed.barrier("lost class images made")
    return True


def _next_number(lines: list[dict[str, Any]]) -> int:
    """Of the next picture's file."""
    return 1 + max((int(Path(line["file"]).stem) for line in lines), default=-1)


def _seeds_used(lines: list[dict[str, Any]], seed: int) -> int:
    """How many seeds, from ``seed`` on, have been used."""
    used = {line["seed"] for line in lines}
    return next(n for n in itertools.count() if seed + n not in used)


def _announce(folder: Path, lines: list[dict[str, Any]], present: list[str], num_images: int) -> None:
    """Say so before anything is added to the owner's own pictures."""
    made = {line["file"] for line in lines}
    own = [name for name in present if name not in made]
    if own and distributed.is_main():
        log.warning(
            "%s: holds %d pictures of your own; %d more are made there, because prior.num_images is %d",
            *(folder, len(own), num_images - len(present), num_images),
        )


def _of_main(*numbers: int) -> tuple[int, ...]:
    """Process 0's numbers, on all processes."""
    return tuple(int(number) for number in distributed.gather(np.asarray(numbers, np.int32))[0])


def made_by_all(
    pipe: Pipeline, store: ClassImageStore, numbers: range, batch_size: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Make pictures of these numbers, each process a batch of them; process 0 gets all, in order, the others none."""
    first = numbers.start + jax.process_index() * batch_size
    own = range(first, first + batch_size)
    pictures = list(make(pipe, store.recipe, [store.seed + n for n in own])) if first in numbers else []
    if not distributed.is_main():
        for number, picture in zip(own, pictures):
            store.stage(number, picture)
    distributed.barrier("class images made")
    if distributed.is_main():
        yield from zip(own, pictures)
        yield from ((number, store.collect(number)) for number in numbers[batch_size:])


def make(pipe: Pipeline, recipe: Recipe, seeds: list[int]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """One batch of pictures."""
    yield from pipe(
        [recipe.prompt] * len(seeds),
        seed=seeds,
        sampling=recipe.sampling,
    )
