# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Class images: what the frozen model believes the class to look like (x_pr of arXiv 2208.12242, section 3.2).

Picture number i is made with seed + i, until there are enough usable ones. Several processes share the numbers out, a
batch each, and process 0 looks at what they made in the order of the numbers: so what is kept does not depend on who
made it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from dreambooth_jax import distributed
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.prepare.class_image_store import (
    ClassImageStore,
    Recipe,
    check_recipe,
    read_manifest,
    usable_pictures,
)
from dreambooth_jax.progress import Progress, announced


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
        batch_size: pictures that this process makes at once. Always so many, so that the sampler compiles once.
        should_stop: asked between batches; of several processes all must get the same answer.

    Returns:
        How many are there now: fewer than asked for only if ``should_stop`` said so.

    Raises:
        InputError: if the folder's pictures were made by another recipe, or the model makes nothing usable.
    """
    folder = Path(folder)
    lines = read_manifest(folder)
    check_recipe(folder, lines, recipe)
    present = usable_pictures(folder)
    # What process 0 sees is what counts: the view of another host may be older.
    count, number = _of_main(len(present), 1 + max((line["seed"] - seed for line in lines), default=-1))
    if count >= num_images:
        return count
    store = ClassImageStore(folder, recipe, seed=seed, patience=max(16, num_images))
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
                raise InputError(
                    f"the last {store.patience} pictures of {recipe.prompt!r} were all black or duplicates: the model "
                    "or the prompt is broken (float16 weights that overflow?); make one with dreambooth-jax sample and "
                    "look"
                )
    return count


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
