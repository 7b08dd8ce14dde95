# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures that other tools made, and which prompt each is of: what it is called, or its caption, says it.

000-seed0.png  0_1.png     of the first prompt         dog.png, dog.txt     of the prompt in its text
"""

import re
from pathlib import Path

import numpy as np

from dreambooth_jax.assessment.subjects import Sitter
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.scores import Group, Kind
from dreambooth_jax.size import Size

ANY = Size(1, 1)
"""No picture is too small to be measured."""
NUMBER = re.compile(r"(\d+)[-_].*")


def groups_in(folder: Path, sitter: Sitter) -> dict[Kind, list[Group]]:
    """Pictures of a folder by prompt, in the order of the prompts.

    Raises:
        InputError: if nothing says what prompt a picture is of.
    """
    prompts = sitter.prompts
    nothing = Subject(identifier="", class_noun="")
    found: dict[str, list[np.ndarray]] = {}
    for photo in load_images(folder, prompt="", subject=nothing, size=ANY):
        number = NUMBER.fullmatch(photo.name)
        if photo.has_caption:
            prompt = next((own for own, text in zip(sitter.templates, prompts) if text == photo.prompt), photo.prompt)
        elif number and int(number[1]) < len(prompts):
            prompt = sitter.templates[int(number[1])]
        else:
            raise InputError(
                f"{folder}: nothing says which prompt {photo.name} is of: call it N-..., N from 0 to "
                f"{len(prompts) - 1} by the list of prompts, or put its prompt into {Path(photo.name).stem}.txt"
            )
        found.setdefault(prompt, []).append(np.asarray(photo.image()))
    known = {template: place for place, template in enumerate(sitter.templates)}
    ordered = sorted(found, key=lambda prompt: known.get(prompt, len(known)))
    return {"subject": [Group(prompt, sitter.without_identifier(prompt), found[prompt]) for prompt in ordered]}
