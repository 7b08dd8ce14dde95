# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``sample --like picture.png``: what a picture says of itself, as options of the command line."""

import dataclasses
import logging
import re
from collections.abc import Collection
from pathlib import PurePath
from typing import TYPE_CHECKING

from dreambooth_jax.metadata.reading import read_remake
from dreambooth_jax.metadata.remake import ADAPTERS, PICTURE, REFINER, WORDS, Remake, shown
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.paths import at_home

if TYPE_CHECKING:
    from dreambooth_jax.runs import OpenedModel

log = logging.getLogger(__name__)


def read_like(path: str) -> Remake:
    """What made a picture; says what tool it was.

    Raises:
        InputError: if it does not say.
    """
    remake = read_remake(at_home(path))
    log.info("%s was made by %s", path, remake.tool)
    return remake


def like_told(options: SampleOptions, told: Collection[str], remake: Remake) -> SampleOptions:
    """Options with the picture's prompt and seed, unless others are told; one picture, unless more are."""
    found = {
        "prompts": (remake.prompt,),
        "seed": remake.seed,
        "num_images": 1,
        "noise": remake.options.get("noise", "jax"),
    }
    if "prompts_file" in told:
        del found["prompts"]
    return dataclasses.replace(options, **{name: value for name, value in found.items() if name not in told})


def not_repeated(remake: Remake, model: str, fingerprint: str) -> list[str]:
    """What differs from the picture, a line each: what was read of it, and the model.

    Args:
        remake: of the picture.
        model: name of the model that draws now.
        fingerprint: of its files.
    """
    lines = list(remake.lacking)
    if remake.fingerprint:
        same = remake.fingerprint == fingerprint and _step(remake.model) == _step(model)
    else:
        same = not remake.model or PurePath(remake.model).stem.casefold() == PurePath(model).stem.casefold()
    if not same:
        lines.append(f"its model, {shown(remake.model)}, if {shown(model)} is another one")
    return lines


def say_not_repeated(options: SampleOptions, remake: Remake, model: "OpenedModel") -> None:
    """A warning for each thing that is not as it was in the picture."""
    for line in not_repeated(remake, model.name, model.pipe.components.fingerprint):
        told = {PICTURE: options.image, WORDS: options.embedding, ADAPTERS: options.lora, REFINER: options.refiner}
        if not any(given and line.startswith(begins) for begins, given in told.items()):
            log.warning("%s: not repeated: %s", options.like, line)


def _step(name: str) -> str:
    """Of a run's checkpoint."""
    match = re.search(r"at step (\d+)$", name)
    return match[1] if match else ""
