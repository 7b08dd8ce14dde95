# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``<lora:name:0.8>`` in prompts of the command line, as A1111 has it: the file of that name is added to the model.

The text is taken out of the prompt. A number is the weight, a second one that of the denoiser where the text encoders
have another; both may have names: ``<lora:dog:te=0.5:unet=0.8>``. Prompts may ask for different adapters: those of one
set are drawn together.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dreambooth_jax.config.setting import shown
from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home

if TYPE_CHECKING:
    from dreambooth_jax.options import SampleOptions

TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
DRAWN = re.compile(r"\{[^{}]*<(?:lora|lyco):")
FOLDERS = (".", "loras")
ENDINGS = ("", ".safetensors", ".pt")


class Bare(NamedTuple):
    """Prompts without the names of adapters.

    Attributes:
        prompts: as they are drawn.
        loras: adapters that each of them adds to the model; none where all prompts have the same, which is the model's.
    """

    prompts: list[str]
    loras: tuple[tuple[str, ...], ...] = ()


def with_loras(
    options: "SampleOptions", prompts: Sequence[str], jobs: Mapping[Path, Sequence[str]]
) -> tuple["SampleOptions", Bare, dict[Path, Bare]]:
    """Options with the files that all prompts name, and the prompts without their names.

    Args:
        options: of the command line.
        prompts: that are drawn.
        jobs: file -> prompts of a queue.

    Raises:
        InputError: if there is no such file, or a weight is none.
    """

    def bare(some: Sequence[str]) -> Bare:
        return Bare([without_tags(prompt) for prompt in some], tuple(tuple(asked_of(prompt)) for prompt in some))

    drawn, queued = bare(prompts), {path: bare(of_file) for path, of_file in jobs.items()}
    sets = {lora for one in (drawn, *queued.values()) for lora in one.loras}
    if len(sets) > 1:
        return options, drawn, queued
    options = replace(options, lora=(*options.lora, *(lora for one in sets for lora in one)))
    return options, Bare(drawn.prompts), {path: Bare(one.prompts) for path, one in queued.items()}


def without_tags(prompt: str) -> str:
    """The prompt without the names of adapters."""
    return " ".join(TAG.sub(" ", prompt).split()) if TAG.search(prompt) else prompt


def asked_of(prompt: str) -> list[str]:
    """``FILE:TEXT_ENCODER:UNET`` of each adapter that a prompt names.

    Raises:
        InputError: as :func:`with_loras`, or if a wildcard were to choose one.
    """
    if DRAWN.search(prompt):
        raise InputError(f"the prompt {shown(prompt)} has <lora:...> within {{...}}: adapters are not drawn by lot")
    return [_asked(found[0], found[1].split(":")) for found in TAG.finditer(prompt)]


def _asked(tag: str, parts: Sequence[str]) -> str:
    name, weights = parts[0], {"te": 1.0, "unet": None}
    for place, part in enumerate(parts[1:]):
        key, equals, value = part.rpartition("=")
        key = key.strip() if equals else ("te", "unet")[place] if place < 2 else ""
        try:
            weights[key] = float(value) if key in weights else float("nan")
        except ValueError:
            weights[key] = float("nan")
        if weights[key] != weights[key]:  # not a number, or no key of ours
            raise InputError(f"{tag} in a prompt: say <lora:name:0.8>, or <lora:name:te=0.5:unet=0.8>")
    unet = weights["te"] if weights["unet"] is None else weights["unet"]
    return f"{_file(tag, name.strip())}:{weights['te']:g}:{unet:g}"


def _file(tag: str, name: str) -> Path:
    places = [at_home(folder) / f"{name}{ending}" for folder in FOLDERS for ending in ENDINGS] if name else []
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(
            f"{tag} in a prompt: there is no {name or '...'}.safetensors here or in {FOLDERS[1]}/: give a path, or "
            "--lora FILE:WEIGHT"
        )
    return found


def has_tags(texts: Iterable[str]) -> bool:
    """Does one of them name an adapter?"""
    return any(TAG.search(text) for text in texts)
